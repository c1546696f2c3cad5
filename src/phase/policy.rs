//! The policy in training: the adapters, and the version they were last stored as.

use super::night::Night;
use super::open_model::OpenModel;
use crate::archive::ArchiveReader;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::config::Adapters;
use crate::config::Role;
use crate::config::Settings;
use crate::durable;
use crate::model::adapter_set::AdapterSet;
use crate::model::lora::Adapter;
use crate::model::lora::LoraShape;
use crate::model::lora::TargetSet;
use crate::rng;

/// The weights under training and the version they were last stored as.
pub(super) struct Policy {
    /// The adapters.
    pub(super) adapters: AdapterSet,
    /// The last stored version; rollouts are sampled from exactly these weights.
    pub(super) version: ModelVersion,
}

impl Policy {
    /// The adapter that plays `role`.
    pub(super) fn adapter(&self, role: Role) -> &Adapter {
        self.adapters.of(role)
    }
}

/// Fails when the live version cannot be trained on as `train.adapters` says: adapters of two
/// roles do not become one.
pub(super) fn check_form(archive: &ArchiveReader, settings: &Settings) -> anyhow::Result<()> {
    let Some(live) = archive.live_model()? else { return Ok(()) };
    if (live.adapters, settings.train.adapters) == (Some(Adapters::PerRole), Adapters::Shared) {
        anyhow::bail!(
            "the live version {} has an adapter for each role, and `train.adapters` = \"shared\" \
             asks for one: two cannot become one; set it to \"per_role\", or use another --home",
            live.id
        );
    }
    Ok(())
}

impl OpenModel<'_> {
    /// Loads a version's adapters in the form of the settings; none for the base.
    pub(super) fn load_adapters(
        &self,
        version: &ModelVersion,
    ) -> anyhow::Result<Option<AdapterSet>> {
        if version.kind == ModelKind::Base {
            return Ok(None);
        }
        let dir = self.home.dir().join(&version.path);
        durable::open_sealed(&dir)?;
        let form = self.settings.train.adapters;
        Ok(Some(AdapterSet::load(&dir, form, &self.outline.config)?))
    }
}

impl Night<'_> {
    /// The policy that training goes on from at `version`: its adapters, or fresh ones on the base.
    pub(super) fn policy_at(&self, version: &ModelVersion) -> anyhow::Result<Policy> {
        let form = self.settings.train.adapters;
        let adapters = match self.load_adapters(version)? {
            Some(adapters) => adapters.with_dropout(self.settings.train.dropout),
            None => AdapterSet::build(form, |role| self.fresh_adapter(role))?,
        };
        Ok(Policy { adapters, version: version.clone() })
    }

    fn fresh_adapter(&self, role: Role) -> anyhow::Result<Adapter> {
        let train = &self.settings.train;
        let targets = TargetSet::of(&train.target_modules);
        let (alpha, dropout) = (train.alpha, train.dropout);
        let shape = LoraShape { rank: train.rank, alpha, dropout, targets };
        let mut rng = match train.adapters {
            Adapters::Shared => rng::stream(self.seed(), &["adapter"]),
            Adapters::PerRole => rng::stream(self.seed(), &["adapter", role.as_str()]),
        };
        Ok(Adapter::fresh(&self.outline.config, shape, &mut rng)?)
    }

    /// The policy as it was stored under this name tonight, if it was.
    pub(super) fn stored_policy(&self, stage: &str) -> anyhow::Result<Option<Policy>> {
        let version = self.archive.model_version(&self.version_id(stage))?;
        version.map(|version| self.policy_at(&version)).transpose()
    }

    /// Stores the policy's weights as a version of their own, in PEFT layout.
    pub(super) fn store_version(
        &self,
        policy: &mut Policy,
        stage: &str,
        note: &str,
    ) -> anyhow::Result<()> {
        let id = self.version_id(stage);
        let content_hash =
            policy.adapters.save(&self.home.adapters().join(&id), &self.outline.name)?;
        let version = ModelVersion {
            parent: Some(policy.version.id.clone()),
            kind: ModelKind::Adapter,
            adapters: Some(policy.adapters.form()),
            path: format!("adapters/{id}"),
            content_hash,
            night: Some(self.number),
            note: note.to_string(),
            id,
        };
        self.archive.put_model_version(&version)?;
        policy.version = version;
        Ok(())
    }

    fn version_id(&self, stage: &str) -> String {
        format!("night{}-{stage}", self.number)
    }
}
