//! What takes space on the disk, and what of it may go.

use std::path::Path;

use serde::Serialize;

use crate::cli::output::table;
use crate::cli::places;
use crate::phase::home::Home;
use crate::phase::usage;
use crate::phase::usage::Means;
use crate::phase::usage::Part;
use crate::phase::usage::What;
use crate::phase::usage::readable;

/// The disk as `doctor` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Disk {
    home: String,
    free_bytes: u64,
    /// What stays free, by the settings.
    floor_bytes: u64,
    /// Whether a process is at work in the home.
    busy: bool,
    parts: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Shown {
    what: What,
    path: String,
    files: u64,
    bytes: u64,
    /// What of them is safe to give back.
    reclaimable_bytes: u64,
    /// The command, or the setting, that gives it back.
    how: Option<String>,
    note: &'static str,
}

/// Looks at the home and the model cache.
pub(super) fn of(home: &Home, cache: &Path, floor_bytes: u64) -> anyhow::Result<Disk> {
    let usage = usage::of(home, Some(cache))?;
    let shown = |part: Part| Shown {
        how: how(home, &part.means),
        what: part.what,
        path: part.path.display().to_string(),
        files: part.files,
        bytes: part.bytes,
        reclaimable_bytes: part.reclaimable,
        note: part.note,
    };
    Ok(Disk {
        home: home.dir().display().to_string(),
        free_bytes: usage.free,
        floor_bytes,
        busy: usage.busy,
        parts: usage.parts.into_iter().map(shown).collect(),
    })
}

fn how(home: &Home, means: &Means) -> Option<String> {
    match means {
        Means::None => None,
        Means::Command(command) => Some(places::command_for(home, command)),
        Means::Delete(paths) => {
            let paths = paths.iter().map(|path| places::quoted(path));
            Some(format!("rm -r {}", paths.collect::<Vec<_>>().join(" ")))
        }
        Means::Setting(key) => Some(format!("set {key} lower")),
    }
}

impl Disk {
    pub(super) fn rendered(&self) -> String {
        let rows = self.parts.iter().map(|part| {
            vec![
                part.what.as_str().to_string(),
                readable(part.bytes),
                match part.reclaimable_bytes {
                    0 => "no".to_string(),
                    bytes if bytes == part.bytes => "all".to_string(),
                    bytes => readable(bytes),
                },
                match &part.how {
                    Some(how) => format!("{how}   # {}", part.note),
                    None => part.note.to_string(),
                },
            ]
        });
        let sum = |bytes: fn(&Shown) -> u64| readable(self.parts.iter().map(bytes).sum());
        let busy = match self.busy {
            true => "\nA process is at work in the home: more can go when it is not.",
            false => "",
        };
        format!(
            "{}\n\n{} taken, of which {} can go; {} free, of which {} stay free \
             (disk.floor_gb){busy}",
            table(&["what", "bytes", "can go", "how"], rows),
            sum(|part| part.bytes),
            sum(|part| part.reclaimable_bytes),
            readable(self.free_bytes),
            readable(self.floor_bytes)
        )
    }
}
