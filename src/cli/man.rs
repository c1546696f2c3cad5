//! `nightschool man`: a manual page for each command.

use std::path::PathBuf;

use clap::Args;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::Roff;
use clap_mangen::roff::bold;
use clap_mangen::roff::roman;

use super::errors::Exit;
use super::help;
use super::output::print;
use crate::durable;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool man | man -l -
  nightschool man ~/.local/share/man/man1   # then: man nightschool-task-list")]
pub(super) struct ManArgs {
    /// The folder to write a page for each command into [default: the program's own page, to
    /// standard output]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> anyhow::Result<()> {
    let mut program = super::command().disable_help_subcommand(true);
    program.build();
    let Some(dir) = &args.dir else { return print(page(&program)?.trim_end()) };
    let pages = pages(&program)?;
    for (name, text) in &pages {
        durable::write_file(&dir.join(name), text.as_bytes())?;
    }
    print(&format!("{} pages are in {}", pages.len(), dir.display()))
}

/// The file names and texts of a command's page and of those below it.
fn pages(command: &Command) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = vec![(Man::new(command.clone()).get_filename(), page(command)?)];
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        all.extend(pages(below)?);
    }
    Ok(all)
}

fn page(command: &Command) -> anyhow::Result<String> {
    let version = format!("nightschool {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(version).manual("nightschool");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    own_sections(command).to_writer(&mut text)?;
    Ok(String::from_utf8(text)?)
}

/// What a page has beside what is made from options and commands.
fn own_sections(command: &Command) -> Roff {
    let mut roff = Roff::default();
    let is_program = command.get_name() == "nightschool";
    // The program's own tells of environment and statuses, as every page does below.
    if let Some(notes) = command.get_after_help().filter(|_| !is_program) {
        roff.control("SH", ["NOTES"]);
        as_it_stands(&mut roff, &notes.to_string());
    }
    if let Some(examples) = command.get_before_help() {
        let examples = examples.to_string();
        let lines = examples.trim_start_matches(help::EXAMPLES).lines();
        let lines: Vec<&str> = lines.map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        roff.control("SH", ["EXAMPLES"]);
        as_it_stands(&mut roff, &lines.join("\n"));
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, what) in help::ENVIRONMENT {
        roff.control("TP", []).text([bold(name)]).text([roman(what.replace('\n', " "))]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        roff.control("TP", []).text([bold(exit.code().to_string())]).text([roman(exit.meaning())]);
    }
    if !is_program {
        roff.control("SH", ["SEE ALSO"]).text([bold("nightschool"), roman("(1)")]);
    }
    roff
}

/// Lines that are not filled.
fn as_it_stands(roff: &mut Roff, text: &str) {
    roff.control("nf", []);
    for line in text.lines() {
        match line {
            "" => roff.control("sp", []),
            line => roff.text([roman(line)]),
        };
    }
    roff.control("fi", []);
}
