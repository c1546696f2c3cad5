//! What `--help` and the man pages say of all commands: the environment and the exit statuses.

use super::errors::Exit;

/// The heading of a command's examples in its help.
pub(super) const EXAMPLES: &str = "Examples:\n";

/// Variables of the environment, each with what it is for, in lines.
pub(super) const ENVIRONMENT: [(&str, &str); 6] = [
    (
        "NIGHTSCHOOL_HOME",
        "where everything learnt is kept; else $STATE_DIRECTORY, else\n\
         $XDG_STATE_HOME/nightschool, else ~/.local/state/nightschool",
    ),
    (
        "NIGHTSCHOOL_CACHE",
        "where models are kept; else $XDG_CACHE_HOME/nightschool,\n\
         else ~/.cache/nightschool",
    ),
    ("NIGHTSCHOOL_LOG", "what to log, such as `debug` or `nightschool::phase=trace`"),
    (
        "NIGHTSCHOOL_PAGER",
        "what shows text that is longer than the screen; else $PAGER, else\n\
         `less`; empty or `cat` for nothing",
    ),
    ("NO_COLOR", "no colours, when it is set and not empty"),
    ("CLICOLOR_FORCE", "colours into files and pipes too, when it is set and not 0"),
];

/// What stands below the help of the program.
pub(super) fn after_help() -> String {
    let mut text = "Environment:".to_string();
    for (name, what) in ENVIRONMENT {
        let indented = what.replace('\n', &format!("\n{:22}", ""));
        text += &format!("\n  {name:18}  {indented}");
    }
    text += "\n\nExit status:";
    for exit in Exit::ALL {
        text += &format!("\n  {:3}  {}", exit.code(), exit.meaning());
    }
    text
}
