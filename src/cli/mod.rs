//! The command line: nouns, then verbs. Data go to standard output, everything else to stderr.

mod adapters;
mod allocator;
mod archive;
mod bench;
mod completions;
mod corpus;
mod daemon;
mod demo;
mod doctor;
pub mod errors;
mod eval;
mod experiment;
mod help;
mod init;
mod interrupt;
mod listing;
mod logging;
mod man;
mod model;
mod night;
mod notify;
mod output;
mod pager;
mod places;
mod run;
mod schedule;
mod status;
mod suite;
mod task;
mod train;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::CommandFactory as _;
use clap::Parser;
use clap::Subcommand;

use self::errors::Exit;
use self::output::Output;

/// Teaches a small language model from a folder of documents, overnight, without labels.
#[derive(Debug, Parser)]
#[command(
    name = "nightschool",
    version,
    max_term_width = 100,
    before_help = "\
Examples:
  nightschool demo                     # one short night on the bundled corpus
  nightschool init                     # settings for your own documents
  nightschool corpus add ~/documents   # .md, .txt, .rst, .html and .jsonl files
  nightschool night --now              # teach the model from them
  nightschool status                   # what there is and what to do next",
    after_help = help::after_help()
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// Folder of archive, adapters and settings (default: $NIGHTSCHOOL_HOME; see below)
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Override a setting; may be given more than once
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Log more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// What to log, such as `debug` or `nightschool::phase=trace`
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Never show long text in a pager
    #[arg(long, global = true)]
    no_pager: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one short night on the bundled corpus with the default model
    Demo(demo::DemoArgs),
    /// Teach the model from the documents that were added
    Night(night::NightArgs),
    /// Follow the schedules of a home, as a service
    Daemon(daemon::DaemonArgs),
    /// See whether those who are told of nights can be reached
    Notify(notify::NotifyArgs),
    /// Write commented settings for documents of your own
    Init(init::InitArgs),
    /// Add documents and search in them
    #[command(subcommand)]
    Corpus(corpus::CorpusCommand),
    /// Fetch models and list what there is
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Look at the questions that were made
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Questions of your own that versions are measured on
    #[command(subcommand)]
    Suite(suite::SuiteCommand),
    /// When nights are to be
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Look at the nights that were
    #[command(subcommand)]
    Run(run::RunCommand),
    /// Look after the archive's file, and query it
    #[command(subcommand)]
    Archive(archive::ArchiveCommand),
    /// Look at what training did
    #[command(subcommand)]
    Train(train::TrainCommand),
    /// What there is, how the last night went, what to do next
    Status(status::StatusArgs),
    /// Measure a model, with or without an adapter, on a file of questions
    Eval(eval::EvalCliArgs),
    /// See whether a method helps: arms at equal cost, over several seeds
    #[command(subcommand)]
    Experiment(experiment::ExperimentCommand),
    /// Measure parts of the program
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// What the program runs on here, and why
    Doctor(doctor::DoctorArgs),
    /// Print what a shell needs to complete command lines
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    Man(man::ManArgs),
    /// Have the model for a night, which starts this itself
    #[command(hide = true)]
    Worker,
}

impl Command {
    /// Whether it only looks at what there is. Then a person may take time to read it in a pager:
    /// nobody has to wait for a lock, and nothing is asked.
    fn only_looks(&self) -> bool {
        match self {
            Self::Corpus(command) => command.only_looks(),
            Self::Model(command) => command.only_looks(),
            Self::Task(command) => command.only_looks(),
            Self::Suite(command) => command.only_looks(),
            Self::Archive(command) => command.only_looks(),
            Self::Experiment(command) => command.only_looks(),
            Self::Schedule(_)
            | Self::Run(_)
            | Self::Train(_)
            | Self::Status(_)
            | Self::Doctor(_) => true,
            _ => false,
        }
    }
}

/// Asks for JSON in place of a table.
#[derive(Debug, Clone, Copy, Args)]
struct Json {
    /// Print JSON; its shapes are described in docs/cli-json.md
    #[arg(long)]
    json: bool,
}

/// The definition of the command line, from which help, completions and man pages are made.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program on its command line and says how it ended.
pub fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help is no error: it goes to standard output, with status 0. A closed pipe is fine.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let outcome = logging::start(&cli.global).and_then(|()| run(cli));
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(error) => errors::report(&error).into(),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let global = &cli.global;
    if cli.command.only_looks() && !global.no_pager {
        pager::allow();
    }
    match cli.command {
        Command::Demo(args) => demo::run(global, &args),
        Command::Night(args) => night::run(global, &args),
        Command::Daemon(args) => daemon::run(global, &args),
        Command::Notify(args) => notify::run(global, &args),
        Command::Init(args) => init::run(global, &args),
        Command::Corpus(command) => corpus::run(global, &command),
        Command::Model(command) => model::run(global, &command),
        Command::Task(command) => task::run(global, &command),
        Command::Suite(command) => suite::run(global, &command),
        Command::Schedule(command) => schedule::run(global, &command),
        Command::Run(command) => run::run(global, &command),
        Command::Archive(command) => archive::run(global, &command),
        Command::Train(command) => train::run(global, &command),
        Command::Status(args) => status::run(global, &args),
        Command::Eval(args) => eval::run(global, &args),
        Command::Experiment(command) => experiment::run(global, &command),
        Command::Bench(command) => bench::run(global, &command),
        Command::Doctor(args) => doctor::run(global, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Worker => worker::run(),
    }
}
