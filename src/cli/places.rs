//! Where things lie: the home, the model cache, the settings.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::Global;
use super::errors::UsageError;
use super::interrupt;
use super::worker;
use crate::archive::Archive;
use crate::archive::ArchiveReader;
use crate::clock::SystemClock;
use crate::config;
use crate::config::Settings;
use crate::durable;
use crate::durable::HomeLock;
use crate::phase::home::Home;
use crate::phase::open_model::ModelContext;

/// A variable of the environment that is set and not empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The home without `--home`.
fn default_home() -> Result<PathBuf, UsageError> {
    if let Some(home) = variable("NIGHTSCHOOL_HOME") {
        return Ok(home);
    }
    if let Some(directories) = variable("STATE_DIRECTORY") {
        // systemd lists several with colons between; the first is the service's own.
        let text = directories.to_string_lossy();
        return Ok(PathBuf::from(text.split(':').next().unwrap_or_default()));
    }
    under_xdg("XDG_STATE_HOME", ".local/state", "--home DIR")
}

/// The folder of downloaded models.
pub(super) fn cache() -> Result<PathBuf, UsageError> {
    match variable("NIGHTSCHOOL_CACHE") {
        Some(cache) => Ok(cache),
        None => under_xdg("XDG_CACHE_HOME", ".cache", "NIGHTSCHOOL_CACHE=DIR"),
    }
}

/// How a command that may take hours opens its model, and is stopped.
pub(super) fn model_context(global: &Global) -> anyhow::Result<ModelContext> {
    let worker = Some(worker::command_line(global)?);
    Ok(ModelContext { cache: cache()?, interrupt: interrupt::install()?, worker })
}

fn under_xdg(name: &str, below_home: &str, instead: &str) -> Result<PathBuf, UsageError> {
    // The standard says that relative paths in these variables are to be ignored.
    let base = variable(name).filter(|path| path.is_absolute());
    let base = base.or_else(|| Some(variable("HOME")?.join(below_home)));
    let message = || UsageError(format!("neither {name} nor HOME is set; give {instead}"));
    Ok(base.ok_or_else(message)?.join("nightschool"))
}

/// The home that commands work on.
pub(super) fn home(global: &Global) -> Result<Home, UsageError> {
    let home = match &global.home {
        Some(dir) => Home::at(dir),
        None => Home::at(default_home()?),
    };
    // A restore that was cut off goes on when the home is locked, so before anything is read from
    // it. Where another process has the lock, that one does it.
    if durable::is_replacement_unfinished(home.dir())
        && let Err(error) = HomeLock::acquire(home.dir())
    {
        tracing::warn!("{} was not put in place whole: {error}", home.dir().display());
    }
    Ok(home)
}

/// The home of the demo: apart from the person's own documents unless `--home` says otherwise.
pub(super) fn demo_home(global: &Global) -> Result<Home, UsageError> {
    match &global.home {
        Some(dir) => Ok(Home::at(dir)),
        None => Ok(Home::at(default_home()?.join("demo"))),
    }
}

/// A command line that works on this home, to suggest to the person.
pub(super) fn command_for(home: &Home, command: &str) -> String {
    if default_home().is_ok_and(|default| default == home.dir()) {
        return format!("nightschool {command}");
    }
    format!("nightschool --home {} {command}", quoted(home.dir()))
}

/// The path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=~".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The settings of a home: defaults, `layers`, the home's file, `--set`, then `flags`, as
/// `key=value`.
///
/// # Errors
/// [`config::ConfigError`] when one of them is refused.
pub(super) fn settings(
    global: &Global,
    home: &Home,
    layers: &[(&str, &str)],
    flags: &[String],
) -> anyhow::Result<Settings> {
    settings_over(global, home, layers, &[], flags)
}

/// As [`settings`], with further layers over the home's file.
///
/// # Errors
/// As there.
pub(super) fn settings_over(
    global: &Global,
    home: &Home,
    layers: &[(&str, &str)],
    over: &[(&str, &str)],
    flags: &[String],
) -> anyhow::Result<Settings> {
    let file = home.config();
    let origin = file.display().to_string();
    let text = if file.exists() { config::read_layer(&file)? } else { String::new() };
    let mut all = layers.to_vec();
    all.push((&origin, &text));
    all.extend_from_slice(over);
    let mut set = global.set.clone();
    set.extend_from_slice(flags);
    Ok(config::load(&all, &set)?)
}

/// The settings of the home that was named, by `--home` or by what was found in it (`of_home`);
/// without one, the defaults with `--set` and `flags`, since no home is needed.
pub(super) fn settings_of_named_home(
    global: &Global,
    of_home: bool,
    flags: &[String],
) -> anyhow::Result<Settings> {
    match of_home || global.home.is_some() {
        true => settings(global, &home(global)?, &[], flags),
        false => Ok(config::load(&[], &[&global.set[..], flags].concat())?),
    }
}

/// `--model` as a setting.
pub(super) fn model_flag(model: Option<&String>) -> Option<String> {
    // Quoted, so that a name that looks like a number stays a name.
    model.map(|model| format!("model={}", toml::Value::from(model.as_str())))
}

/// The archive for writing, and the lock that gives the right to.
pub(super) fn writable(global: &Global) -> anyhow::Result<(HomeLock, Archive)> {
    let home = home(global)?;
    // So that a wrong home is named rather than made.
    ArchiveReader::open(&home.archive())?;
    let lock = HomeLock::acquire(home.dir())?;
    Ok((lock, Archive::open(&home.archive(), Arc::new(SystemClock))?))
}
