//! The held-out suite: people's questions, or tasks from documents set aside, frozen before the
//! first night.

use std::path::Path;

use anyhow::Context as _;

use super::night::Night;
use super::night::SuiteSource;
use crate::archive::Suite;
use crate::archive::SuiteItem;
use crate::archive::SuiteOrigin;
use crate::archive::TaskFilter;
use crate::evaluation::Question;
use crate::evaluation::standalone;
use crate::task::Split;

const HUMAN: &str = "own";
const MODEL_MADE: &str = "model-made";

impl Night<'_> {
    /// The suite this home is judged by. Human questions are frozen under their name when first
    /// seen; without any, verified tasks from held-out documents are, once and for all.
    pub(super) fn freeze_suite(&self, source: Option<&SuiteSource>) -> anyhow::Result<Suite> {
        let own = self.settings.heldout.suite.as_ref();
        let own = own.map(|path| SuiteSource { name: HUMAN.into(), questions: path.clone() });
        let Some(source) = source.cloned().or(own) else { return self.model_made_suite() };
        if let Some(frozen) = self.archive.suite(&source.name)? {
            return Ok(frozen);
        }
        let items = read_items(&source.questions)?;
        let suite = Suite::new(&source.name, SuiteOrigin::Human, items);
        self.archive.freeze_suite(&suite)?;
        Ok(suite)
    }

    fn model_made_suite(&self) -> anyhow::Result<Suite> {
        if let Some(frozen) = self.archive.suite(MODEL_MADE)? {
            return Ok(frozen);
        }
        let filter = TaskFilter {
            split: Some(Split::Heldout),
            limit: Some(self.settings.heldout.questions as u32),
            ..TaskFilter::default()
        };
        let tasks = self.archive.tasks(&filter)?;
        let items: Vec<SuiteItem> = tasks
            .into_iter()
            .map(|stored| {
                let task = stored.task;
                let passage = task.evidence.last().and_then(|id| self.passages.get(id));
                SuiteItem {
                    source_document: passage.map_or(String::new(), |p| p.document_id.clone()),
                    question_id: task.id,
                    question: task.question,
                    answers: vec![task.answer],
                }
            })
            .collect();
        if items.is_empty() {
            anyhow::bail!(
                "no question could be made from the documents set aside for evaluation: add more \
                 documents, raise heldout.documents, or name a file of your own questions in \
                 heldout.suite"
            );
        }
        let suite = Suite::new(MODEL_MADE, SuiteOrigin::Model, items);
        self.archive.freeze_suite(&suite)?;
        Ok(suite)
    }
}

fn read_items(path: &Path) -> anyhow::Result<Vec<SuiteItem>> {
    let questions = standalone::read_questions(path)
        .with_context(|| format!("cannot use the suite {}", path.display()))?;
    let item = |question: Question| SuiteItem {
        question_id: question.id,
        question: question.question,
        answers: question.answers,
        source_document: question.source_document,
    };
    Ok(questions.into_iter().map(item).collect())
}

/// A suite's items as questions.
pub(super) fn questions(suite: &Suite) -> Vec<Question> {
    let question = |item: &SuiteItem| Question {
        id: item.question_id.clone(),
        question: item.question.clone(),
        answers: item.answers.clone(),
        source_document: item.source_document.clone(),
    };
    suite.items.iter().map(question).collect()
}
