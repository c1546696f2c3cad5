//! The proposer is trained on what became of its drafts.

use std::collections::BTreeMap;
use std::fs;

use nightschool::archive::PlayedProposal;
use nightschool::archive::StoredTask;
use nightschool::archive::TaskFilter;
use nightschool::archive::TrainPhase;
use nightschool::archive::TrainStep;
use nightschool::rollout::Owner;
use nightschool::task::AnswerKind;
use nightschool::task::Origin;
use nightschool::task::Rejection;
use nightschool::task::Split;
use nightschool::task::Task;

use super::School;

/// Rounds in which an asking model's drafts are played.
const PLAY: [&str; 7] = [
    "propose.model_drafts=40",
    "warm_start.steps=2",
    "verify.min_words=1",
    "verify.min_chars=3",
    "train_proposer.drafts=8",
    "solve.tasks=12",
    "solve.rollouts=4",
];

fn steps_of(school: &School) -> Vec<TrainStep> {
    let steps = school.archive().train_steps(1).unwrap();
    steps.into_iter().filter(|step| step.phase == TrainPhase::Proposer).collect()
}

fn proposals(school: &School) -> Vec<PlayedProposal> {
    school.archive().proposals(1, 0..=1).unwrap()
}

/// The tasks that the model wrote, by id.
fn tasks(school: &School) -> BTreeMap<String, StoredTask> {
    let filter = TaskFilter { origin: Some(Origin::Model), ..TaskFilter::default() };
    let tasks = school.archive().tasks(&filter).unwrap();
    tasks.into_iter().map(|stored| (stored.task.id.clone(), stored)).collect()
}

#[test]
fn drafts_are_kept_token_by_token_and_the_policy_gradient_learns_from_them() {
    let school = School::asking();
    let report = school.finish_with(&PLAY);
    let proposals = proposals(&school);
    assert_eq!(proposals.len(), 40);
    assert_eq!(proposals.iter().filter(|one| one.round == 0).count(), 20);
    for one in &proposals {
        let [prompt, written] = &one.steps[..] else { panic!("{:?}", one.steps) };
        assert_eq!((prompt.owner, written.owner), (Owner::Tool, Owner::Model));
        assert_eq!(written.tokens.len(), written.logprobs.len());
        if one.rejection.is_some() {
            assert_eq!(one.reward, Some(0.0), "a draft that was turned away is worth nothing");
        }
    }
    let steps = steps_of(&school);
    assert_eq!(report["train"]["proposer_steps"], steps.len());
    assert_eq!(steps.len(), 6, "three of eight drafts in each round");
    for step in &steps {
        // But for those that there was no place to play.
        let drafts = step.metrics["drafts"].as_f64().unwrap();
        assert!((16.0..=20.0).contains(&drafts), "{drafts}");
        assert!(step.metrics["loss"].is_number() && step.metrics["kl"].is_number());
    }
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    let accepted = proposals.iter().filter(|one| one.rejection.is_none()).count();
    assert!(accepted > 0 && proposals.iter().any(|one| one.reward == Some(1.0)));
    let told: u64 = rounds.iter().map(|round| round["accepted"].as_u64().unwrap()).sum();
    assert_eq!(told, accepted as u64);
    school.archive().check().unwrap();
}

#[test]
fn the_proposer_is_trained_as_often_and_in_the_order_that_the_settings_say() {
    for (settings, every) in [
        (&["train_proposer.objective=none"][..], 0),
        (&["train_proposer.every=2"], 2),
        (&["train_proposer.order=solver_first", "train_proposer.reward=dr_zero"], 1),
        // Rewards of a round are compared with each other.
        (&["train_proposer.advantage=grpo", "train_proposer.group_key=round"], 1),
    ] {
        let school = School::asking();
        school.finish_with(&[&PLAY[..], settings].concat());
        let worth = |rounds| {
            let proposals = school.archive().proposals(1, rounds).unwrap();
            let rewards: Vec<f32> = proposals.iter().filter_map(|one| one.reward).collect();
            // Without a difference nothing is learnt from a comparison; an average may still move.
            let compared = settings.contains(&"train_proposer.group_key=round");
            let differ = rewards.iter().any(|reward| *reward != rewards[0]);
            if compared && !differ { 0 } else { rewards.len() }
        };
        let expected = match every {
            0 => 0,
            1 => worth(0..=0).div_ceil(8) + worth(1..=1).div_ceil(8),
            _ => worth(0..=1).div_ceil(8),
        };
        assert!(every == 0 || expected >= 2);
        assert_eq!(steps_of(&school).len(), expected, "{settings:?}");
    }
    let school = School::asking();
    school.finish_with(&[&PLAY[..], &["train_proposer.objective=likelihood"]].concat());
    let good = proposals(&school).iter().filter(|one| one.reward == Some(1.0)).count();
    let steps = steps_of(&school);
    assert!(good > 0 && !steps.is_empty() && steps.len() <= good.div_ceil(8) + 1);
    assert!(steps.iter().all(|step| step.objective.as_str() == "likelihood"));
}

#[test]
fn a_night_killed_while_the_proposer_trains_goes_on_to_the_same_end() {
    let school = School::asking();
    school.finish_with(&PLAY);
    let (digest, adapters) = (school.digest(), school.adapters());
    school.begin_again();
    for line in [
        "started: training the proposer, round 1",
        "started: training on rollouts, round 1",
        "started: drafts by the model, and their gate, round 2",
        "started: training the proposer, round 2",
    ] {
        super::kill_at(school.night_with(&PLAY), line);
    }
    school.finish();
    assert_eq!(school.digest(), digest, "the archive's content");
    assert_eq!(school.adapters(), adapters, "the adapters' bytes");
}

/// Prompts in which the answer is given where the settings leave it to the model, since that of the
/// tests writes no words; the adapter's shows passages as its reader's does.
fn give_the_answer(school: &School) {
    let passage = "Title: {{ passage.title }}\n{{ passage.text }}\n";
    let end = "===\nAnswer: 7\nQuestion:\n";
    let examples = "{% for example in examples %}Example {{ example.question }}\n{% endfor -%}\n";
    let base = format!("{examples}{{% for passage in passages -%}}\n{passage}{{% endfor -%}}\n");
    let adapter =
        format!("{{% for passage in passages | reverse -%}}\n{passage}\n{{% endfor -%}}\n");
    for (name, text) in [("propose_document", base), ("propose_document_bare", adapter)] {
        let file = school.home().join(format!("prompts/{name}.jinja"));
        fs::write(file, format!("{text}{end}")).unwrap();
    }
}

/// How the proposals of each round were drawn.
fn samplings(school: &School) -> Vec<(i64, serde_json::Value)> {
    let query = "SELECT DISTINCT p.round, s.settings_json FROM proposal p
                 JOIN sampling s ON s.id = p.sampling_id ORDER BY p.round";
    let answer = school.json(&["archive", "sql", query]);
    let rows = answer["rows"].as_array().unwrap().iter();
    rows.map(|row| {
        let settings = row["settings_json"].as_str().unwrap();
        (row["round"].as_i64().unwrap(), serde_json::from_str(settings).unwrap())
    })
    .collect()
}

#[test]
fn the_model_writes_answers_too_sees_examples_and_goes_on_after_a_kill() {
    let settings = [
        &PLAY[..],
        &[
            "propose.method=document_seeded",
            "propose.archive_examples=3",
            "propose.temperature=1.2",
            "propose.max_tokens=24",
            "propose.with_adapter=false",
            "solve.temperature=1.5",
            "train_proposer.objective=likelihood",
        ],
    ]
    .concat();
    let school = School::asking();
    give_the_answer(&school);
    school.finish_with(&settings);
    let proposals = proposals(&school);
    assert_eq!(proposals.len(), 40);
    let tasks = tasks(&school);
    assert!(!tasks.is_empty());
    for Task { answer, kind, evidence, .. } in tasks.values().map(|stored| &stored.task) {
        assert_eq!((answer.as_str(), *kind, evidence.len()), ("7", AnswerKind::Number, 1));
    }
    assert!(!steps_of(&school).is_empty(), "question and answer are learnt together");
    let [(0, first), (1, second)] = &samplings(&school)[..] else { panic!("two rounds") };
    for sampling in [first, second] {
        assert_eq!(
            (&sampling["method"], &sampling["turns"]),
            (&"document_seeded".into(), &0.into())
        );
        assert_eq!(sampling["prompt"], "propose_document");
    }
    assert_eq!(first["examples"], serde_json::json!([]), "nothing was played yet");
    let shown = second["examples"].as_array().unwrap();
    assert!((1..=3).contains(&shown.len()), "{second}");
    for id in shown {
        let stored = &tasks[id.as_str().unwrap()];
        assert_eq!(stored.task.split, Split::Train);
        assert!(0 < stored.solved && stored.solved < stored.attempts);
    }
    let (digest, adapters) = (school.digest(), school.adapters());
    school.begin_again();
    for line in [
        "started: drafts by the model, and their gate, round 1",
        "started: drafts by the model, and their gate, round 2",
    ] {
        super::kill_at(school.night_with(&settings), line);
    }
    school.finish();
    assert_eq!(school.digest(), digest, "the archive's content");
    assert_eq!(school.adapters(), adapters, "the adapters' bytes");
}

#[test]
fn a_model_that_cannot_hold_the_conversation_makes_malformed_drafts() {
    let school = School::asking();
    let report = school.finish_with(&[&PLAY[..], &["propose.turns=2"]].concat());
    assert_eq!(report["origin"]["model"]["drafts"], 40);
    for one in &proposals(&school) {
        assert_eq!(one.rejection, Some(Rejection::Malformed));
        let owners: Vec<Owner> = one.steps.iter().map(|step| step.owner).collect();
        assert_eq!(owners[..2], [Owner::Tool, Owner::Model]);
        assert!(owners.chunks(2).all(|pair| pair[0] == Owner::Tool), "{owners:?}");
    }
    for (_, sampling) in samplings(&school) {
        assert_eq!((&sampling["turns"], &sampling["passages"]), (&2.into(), &1.into()));
    }
    school.archive().check().unwrap();
}
