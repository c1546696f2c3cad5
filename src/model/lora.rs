//! LoRA adapters (Hu et al. 2021): low-rank terms beside every linear map of the decoder.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use candle_core::Var;
use rand::Rng as _;
use serde::Deserialize;
use serde::Serialize;

use super::config::DecoderConfig;
use super::ops::LoraPair;
use super::tokenizer::TokenizerError;
use crate::durable;
use crate::durable::PendingDirectory;
use crate::rng::Rng;

/// The linear maps of a layer, in the order they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(usize)]
pub enum Target {
    /// Query projection.
    #[serde(rename = "q_proj")]
    Query,
    /// Key projection.
    #[serde(rename = "k_proj")]
    Key,
    /// Value projection.
    #[serde(rename = "v_proj")]
    Value,
    /// Attention output projection.
    #[serde(rename = "o_proj")]
    Output,
    /// Gate projection of the feed-forward block.
    #[serde(rename = "gate_proj")]
    Gate,
    /// Up projection of the feed-forward block.
    #[serde(rename = "up_proj")]
    Up,
    /// Down projection of the feed-forward block.
    #[serde(rename = "down_proj")]
    Down,
}

impl Target {
    /// How many there are.
    pub const COUNT: usize = 7;
    /// All of them, in order.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// The module's name in Hugging Face checkpoints, below `model.layers.{i}.`.
    pub fn module(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Its name in `target_modules`, such as `q_proj`.
    pub fn name(self) -> &'static str {
        let module = self.module();
        module.rsplit('.').next().unwrap_or(module)
    }

    /// (out, in) of the map.
    pub fn dims(self, config: &DecoderConfig) -> (usize, usize) {
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        match self {
            Self::Query => (queries, config.hidden),
            Self::Key | Self::Value => (keys, config.hidden),
            Self::Output => (config.hidden, queries),
            Self::Gate | Self::Up => (config.feed_forward, config.hidden),
            Self::Down => (config.hidden, config.feed_forward),
        }
    }
}

/// Why an adapter could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file of the adapter is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// `adapter_config.json` is not what PEFT writes for LoRA.
    #[error("{path}: {reason}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights do not fit the base model.
    #[error("adapter does not fit the model: {0}")]
    Mismatch(String),
    /// Reading or writing tensors failed.
    #[error("adapter weights: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Writing failed; nothing was left behind.
    #[error(transparent)]
    Write(#[from] durable::DurableError),
    /// The merged model cannot be described as a Hugging Face folder.
    #[error("the model cannot be exported as a Hugging Face folder: {0}")]
    Export(String),
    /// The model's tokenizer cannot be written down.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Linear maps that an adapter has terms for, in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSet([bool; Target::COUNT]);

impl TargetSet {
    /// All linear maps.
    pub const ALL: Self = Self([true; Target::COUNT]);

    /// Those named.
    pub fn of(targets: &[Target]) -> Self {
        Self(Target::ALL.map(|target| targets.contains(&target)))
    }

    /// Whether `target` is one of them.
    pub fn contains(self, target: Target) -> bool {
        self.0[target as usize]
    }

    /// Those there are, in order.
    pub fn iter(self) -> impl Iterator<Item = Target> {
        Target::ALL.into_iter().filter(move |target| self.contains(*target))
    }
}

/// Size and strength of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoraShape {
    /// Rank r of the low-rank term.
    pub rank: usize,
    /// Scale numerator: the term is multiplied by alpha / r.
    pub alpha: f32,
    /// Share of the inputs of the low-rank terms that are dropped in training, in [0, 1).
    pub dropout: f32,
    /// The linear maps it is added to.
    pub targets: TargetSet,
}

/// A LoRA adapter on linear maps of a decoder.
#[derive(Debug, Clone)]
pub struct Adapter {
    shape: LoraShape,
    pairs: Vec<[Option<LoraPair>; Target::COUNT]>,
    variables: BTreeMap<String, Var>,
}

/// The fields of PEFT's `adapter_config.json` that matter here; others are ignored on reading.
#[derive(Debug, Serialize, Deserialize)]
struct PeftConfig {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    target_modules: Vec<String>,
    #[serde(default)]
    bias: String,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    inference_mode: bool,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    /// Ranks and alphas of single modules: not supported, so never written.
    #[serde(default)]
    rank_pattern: HashMap<String, usize>,
    #[serde(default)]
    alpha_pattern: HashMap<String, f32>,
}

impl PeftConfig {
    /// Whether the term is alpha / r · B A, the same on every module.
    fn plain(&self) -> bool {
        let patterns = !self.rank_pattern.is_empty() || !self.alpha_pattern.is_empty();
        let variants = self.use_rslora || self.use_dora || self.fan_in_fan_out || patterns;
        self.peft_type == "LORA" && self.r > 0 && !variants
    }

    /// The maps named in `target_modules`, as `q_proj` or by a longer path.
    fn targets(&self) -> Result<TargetSet, String> {
        let known = |name: &String| {
            let last = name.rsplit('.').next().unwrap_or(name);
            let target = Target::ALL.into_iter().find(|target| target.name() == last);
            target.ok_or_else(|| format!("`{name}` is not a linear map of the decoder's layers"))
        };
        let targets: Vec<Target> =
            self.target_modules.iter().map(known).collect::<Result<_, _>>()?;
        Ok(TargetSet::of(&targets))
    }
}

const CONFIG_FILE: &str = "adapter_config.json";
/// The file of a PEFT directory that holds the weights.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The name of one of an adapter's tensors in PEFT checkpoints; `side` is 'A' or 'B'.
pub fn tensor_name(layer: usize, target: Target, side: char) -> String {
    let module = target.module();
    format!("base_model.model.model.layers.{layer}.{module}.lora_{side}.weight")
}

impl Adapter {
    /// A fresh adapter that changes nothing yet: A uniform in ±1/√in (what PEFT's Kaiming
    /// initialisation with a = √5 comes to), B zero.
    ///
    /// # Errors
    /// Those of candle.
    pub fn fresh(
        config: &DecoderConfig,
        shape: LoraShape,
        rng: &mut Rng,
    ) -> Result<Self, AdapterError> {
        let mut tensors = HashMap::new();
        for layer in 0..config.layers {
            for target in shape.targets.iter() {
                let (out, inner) = target.dims(config);
                let bound = 1.0 / (inner as f32).sqrt();
                let a: Vec<f32> =
                    (0..shape.rank * inner).map(|_| rng.random_range(-bound..bound)).collect();
                let a = Tensor::from_vec(a, (shape.rank, inner), &Device::Cpu)?;
                let b = Tensor::zeros((out, shape.rank), DType::F32, &Device::Cpu)?;
                tensors.insert(tensor_name(layer, target, 'A'), a);
                tensors.insert(tensor_name(layer, target, 'B'), b);
            }
        }
        Self::from_tensors(config, shape, &tensors)
    }

    /// An adapter from tensors named as in a PEFT checkpoint.
    ///
    /// # Errors
    /// When a tensor is missing, superfluous, or of another shape.
    pub fn from_tensors(
        config: &DecoderConfig,
        shape: LoraShape,
        tensors: &HashMap<String, Tensor>,
    ) -> Result<Self, AdapterError> {
        let scale = shape.alpha / shape.rank as f32;
        let mut variables = BTreeMap::new();
        let mut pairs = Vec::with_capacity(config.layers);
        let mut read = |name: String, dims: (usize, usize)| {
            let tensor = tensors
                .get(&name)
                .ok_or_else(|| AdapterError::Mismatch(format!("no tensor `{name}`")))?;
            if tensor.dims() != [dims.0, dims.1] {
                return Err(AdapterError::Mismatch(format!(
                    "`{name}` is {:?}, the model needs {dims:?}",
                    tensor.dims()
                )));
            }
            let variable = Var::from_tensor(&tensor.to_dtype(DType::F32)?.contiguous()?)?;
            let tensor = variable.as_tensor().clone();
            variables.insert(name, variable);
            Ok(tensor)
        };
        for layer in 0..config.layers {
            let mut of_layer = [const { None }; Target::COUNT];
            for target in shape.targets.iter() {
                let (out, inner) = target.dims(config);
                let a = read(tensor_name(layer, target, 'A'), (shape.rank, inner))?;
                let b = read(tensor_name(layer, target, 'B'), (out, shape.rank))?;
                of_layer[target as usize] = Some(LoraPair { a, b, scale });
            }
            pairs.push(of_layer);
        }
        if let Some(extra) = tensors.keys().find(|name| !variables.contains_key(*name)) {
            return Err(AdapterError::Mismatch(format!("`{extra}` has no place in the model")));
        }
        Ok(Self { shape, pairs, variables })
    }

    /// Reads a PEFT directory.
    ///
    /// # Errors
    /// When a file is missing or malformed, asks for something other than plain LoRA on linear
    /// maps, or does not fit the model.
    pub fn load(dir: &Path, config: &DecoderConfig) -> Result<Self, AdapterError> {
        let path = dir.join(CONFIG_FILE);
        let display = path.display().to_string();
        let text = std::fs::read_to_string(&path)
            .map_err(|source| AdapterError::Read { path: display.clone(), source })?;
        let wrong = |reason: String| AdapterError::Config { path: display.clone(), reason };
        let peft: PeftConfig = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if !peft.plain() {
            return Err(wrong("only plain LoRA adapters are supported".into()));
        }
        let targets = peft.targets().map_err(wrong)?;
        let dropout = peft.lora_dropout;
        let shape = LoraShape { rank: peft.r, alpha: peft.lora_alpha, dropout, targets };
        let path = dir.join(WEIGHTS_FILE);
        let bytes = std::fs::read(&path)
            .map_err(|source| AdapterError::Read { path: path.display().to_string(), source })?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        Self::from_tensors(config, shape, &tensors)
    }

    /// Writes a PEFT directory and seals it: it appears whole or not at all. Returns the hash of
    /// its contents.
    ///
    /// # Errors
    /// When the disk is full or unwritable.
    pub fn save(&self, dir: &Path, base: &str) -> Result<String, AdapterError> {
        let peft = PeftConfig {
            peft_type: "LORA".into(),
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: Some(base.into()),
            r: self.shape.rank,
            lora_alpha: self.shape.alpha,
            lora_dropout: self.shape.dropout,
            target_modules: self.shape.targets.iter().map(|t| t.name().to_string()).collect(),
            bias: "none".into(),
            fan_in_fan_out: false,
            inference_mode: true,
            use_rslora: false,
            use_dora: false,
            rank_pattern: HashMap::new(),
            alpha_pattern: HashMap::new(),
        };
        let config = serde_json::to_vec_pretty(&peft).map_err(|error| AdapterError::Config {
            path: CONFIG_FILE.into(),
            reason: error.to_string(),
        })?;
        let weights = serialise(self.variables.iter().map(|(k, v)| (k.as_str(), v.as_tensor())))?;
        let pending = PendingDirectory::create(dir)?;
        durable::write_file(&pending.path().join(CONFIG_FILE), &config)?;
        durable::write_file(&pending.path().join(WEIGHTS_FILE), &weights)?;
        Ok(pending.seal()?.content_hash())
    }

    /// The low-rank term of one linear map, if it has one.
    pub fn pair(&self, layer: usize, target: Target) -> Option<&LoraPair> {
        self.pairs.get(layer)?[target as usize].as_ref()
    }

    /// Rank, alpha and targets.
    pub fn shape(&self) -> LoraShape {
        self.shape
    }

    /// The trainable tensors by their PEFT names, in a fixed order.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }

    /// The same adapter, to be trained with another dropout.
    #[must_use]
    pub fn with_dropout(mut self, rate: f32) -> Self {
        self.shape.dropout = rate;
        self
    }

    /// A copy on `device`, with variables of its own.
    ///
    /// # Errors
    /// Those of candle.
    pub fn to_device(&self, config: &DecoderConfig, device: &Device) -> Result<Self, AdapterError> {
        let tensors = self
            .variables
            .iter()
            .map(|(name, variable)| Ok((name.clone(), variable.as_tensor().to_device(device)?)));
        Self::from_tensors(config, self.shape, &tensors.collect::<candle_core::Result<_>>()?)
    }

    /// A copy with the same values that later training does not change: for generation.
    ///
    /// # Errors
    /// Those of candle.
    pub fn frozen(&self) -> Result<Self, AdapterError> {
        let copy = |tensor: &Tensor| tensor.copy().map(|copy| copy.detach());
        let mut pairs = Vec::with_capacity(self.pairs.len());
        for layer in &self.pairs {
            let mut of_layer = layer.clone();
            for pair in of_layer.iter_mut().flatten() {
                *pair = LoraPair { a: copy(&pair.a)?, b: copy(&pair.b)?, scale: pair.scale };
            }
            pairs.push(of_layer);
        }
        Ok(Self { shape: self.shape, pairs, variables: BTreeMap::new() })
    }
}

/// Named f32 tensors as safetensors bytes.
pub(crate) fn serialise<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
) -> Result<Vec<u8>, AdapterError> {
    let tensors: Vec<(&str, &Tensor)> = tensors.collect();
    // Without this note transformers does not load the file.
    let note = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(tensors, Some(note))
        .map_err(|error| AdapterError::Mismatch(format!("safetensors: {error}")))
}
