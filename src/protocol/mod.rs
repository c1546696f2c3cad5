//! How roles talk to the model: prompts as data, and the think/search/answer conversation.

pub mod blocks;
pub mod prompt;
pub mod reader;

pub use prompt::Example;
pub use prompt::Prompt;
pub use prompt::PromptError;
pub use prompt::Prompts;
pub use reader::Reader;
pub use reader::answer_of;
