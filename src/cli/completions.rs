//! `nightschool completions`: what a shell needs to complete command lines.

use clap::Args;
use clap_complete::Shell;

use super::output::print;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool completions bash > ~/.local/share/bash-completion/completions/nightschool
  nightschool completions zsh > ~/.zfunc/_nightschool   # in a folder of $fpath
  nightschool completions fish > ~/.config/fish/completions/nightschool.fish")]
pub(super) struct CompletionsArgs {
    /// The shell that is to complete
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "nightschool", &mut script);
    print(String::from_utf8(script)?.trim_end())
}
