//! What is different when a person looks at a terminal: the pager and the colours.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;

use regex::Regex;

use super::Desk;
use super::with_corpus;

/// Both ends of a new terminal of 100 columns.
fn terminal(rows: u16) -> (File, File) {
    // SAFETY: the calls get what their manual pages ask for, and the results are looked at.
    let ours = unsafe {
        let ours = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(ours >= 0, "{}", std::io::Error::last_os_error());
        assert_eq!((libc::grantpt(ours), libc::unlockpt(ours)), (0, 0));
        File::from_raw_fd(ours)
    };
    let mut name = [0; 64];
    let size = libc::winsize { ws_row: rows, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: as above.
    let name = unsafe {
        assert_eq!(libc::ptsname_r(ours.as_raw_fd(), name.as_mut_ptr(), name.len()), 0);
        assert_eq!(libc::ioctl(ours.as_raw_fd(), libc::TIOCSWINSZ, &size), 0);
        std::ffi::CStr::from_ptr(name.as_ptr()).to_str().unwrap().to_string()
    };
    let mut options = File::options();
    let theirs = options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(name);
    (ours, theirs.unwrap())
}

/// What the program shows on a terminal; it must exit with `code`.
fn shown(desk: &Desk, rows: u16, code: i32, variables: &[(&str, &str)], args: &[&str]) -> String {
    let (mut ours, theirs) = terminal(rows);
    let mut command = desk.process(args);
    command.env("TERM", "xterm-256color").envs(variables.iter().copied());
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    // It holds the other end of the terminal.
    drop(command);
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    // The end of the last program on it is told as an error.
    while let Ok(n) = ours.read(&mut part) {
        bytes.extend_from_slice(&part[..n]);
    }
    let text = String::from_utf8(bytes).unwrap().replace("\r\n", "\n");
    assert_eq!(child.wait().unwrap().code(), Some(code), "{args:?}\n{text}");
    text
}

const MARKS: (&str, &str) = ("NIGHTSCHOOL_PAGER", "sed 's/^/paged: /'");

fn is_paged(text: &str) -> bool {
    text.lines().all(|line| line.starts_with("paged: ")) && !text.is_empty()
}

#[test]
fn long_text_is_paged() {
    let desk = with_corpus();
    let plain = desk.out(&["archive", "schema"]);
    let paged = shown(&desk, 24, 0, &[MARKS], &["archive", "schema"]);
    assert!(is_paged(&paged), "{paged}");
    assert_eq!(paged.replace("paged: ", ""), plain);
    // The pager of other programs comes second, then less.
    let other = ("PAGER", "sed 's/^/other: /'");
    assert!(is_paged(&shown(&desk, 24, 0, &[MARKS, other], &["archive", "schema"])));
    let text = shown(&desk, 24, 0, &[other], &["archive", "schema"]);
    assert!(text.lines().all(|line| line.starts_with("other: ")), "{text}");
    let less =
        desk.write("programs/less", "#!/bin/sh\nprintf 'LESS=%s' \"$LESS\"\ncat >/dev/null\n");
    std::fs::set_permissions(&less, std::fs::Permissions::from_mode(0o755)).unwrap();
    let programs = format!("{}:/usr/bin:/bin", desk.path("programs").display());
    let path = ("PATH", programs.as_str());
    assert_eq!(shown(&desk, 24, 0, &[path], &["archive", "schema"]), "LESS=FRX");
    let own = [path, ("LESS", "S")];
    assert_eq!(shown(&desk, 24, 0, &own, &["archive", "schema"]), "LESS=S");
    // A line that is wider than the screen takes several rows of it.
    let wide = ["corpus", "search", "condenser ocean"];
    let lines = desk.out(&wide).lines().count() as u16;
    assert!(is_paged(&shown(&desk, lines + 1, 0, &[MARKS], &wide)));
}

#[test]
fn what_is_short_or_for_programs_is_not_paged() {
    let desk = with_corpus();
    let plain = desk.out(&["archive", "schema"]);
    let same = |variables: &[(&str, &str)], args: &[&str]| {
        assert_eq!(shown(&desk, 24, 0, variables, args), plain, "{variables:?} {args:?}");
    };
    same(&[MARKS], &["archive", "schema", "--no-pager"]);
    for off in ["", "cat", "no-such-pager --at all", "un'closed"] {
        let variables = [("NIGHTSCHOOL_PAGER", off), ("PAGER", "sed s/^/other/")];
        same(&variables, &["archive", "schema"]);
    }
    same(&[("PAGER", "")], &["archive", "schema"]);
    let json = shown(&desk, 24, 0, &[MARKS], &["archive", "schema", "--json"]);
    assert!(json.starts_with("{\n  \"schema_version\": 1"), "{json}");
    let numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 99) \
                   SELECT x FROM n";
    // With the header a hundred lines; one row is the shell's.
    let args = ["archive", "sql", numbers];
    assert_eq!(shown(&desk, 101, 0, &[MARKS], &args), desk.out(&args));
    assert!(is_paged(&shown(&desk, 100, 0, &[MARKS], &args)));
    for form in ["json", "jsonl", "tsv"] {
        let args = ["archive", "sql", numbers, "--output", form];
        assert_eq!(shown(&desk, 24, 0, &[MARKS], &args), desk.out(&args), "{form}");
    }
    let piped = desk.command(&["archive", "schema"]).env(MARKS.0, MARKS.1).output().unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), plain);
}

#[test]
fn what_holds_the_home_s_lock_is_not_paged() {
    let desk = with_corpus();
    for n in 0..40 {
        desk.write(&format!("docs/{n}.pdf"), "%PDF");
    }
    let text = shown(&desk, 24, 0, &[MARKS], &["corpus", "add", "docs"]);
    assert!(text.lines().count() > 40 && !text.contains("paged: "), "{text}");
}

#[test]
fn to_quit_the_pager_early_is_no_error() {
    let desk = with_corpus();
    // More than a pipe holds.
    let numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000) \
                   SELECT x, 'some more words' AS words FROM n";
    let args = ["archive", "sql", numbers, "--rows", "20000"];
    let text = shown(&desk, 24, 0, &[("NIGHTSCHOOL_PAGER", "head -n 1")], &args);
    assert_eq!(text, "X      WORDS\n");
}

#[test]
fn colours_follow_the_variables() {
    let desk = with_corpus();
    let codes = Regex::new("\x1b\\[[0-9;]*m").unwrap();
    let pager = ("NIGHTSCHOOL_PAGER", "no-such-pager");
    // An error, help, a log line, a progress bar.
    let all: [(i32, &[&str]); 4] = [
        (3, &["task", "show", "none"]),
        (0, &["task", "list", "--help"]),
        (0, &["--log", "debug", "archive", "schema"]),
        (0, &["archive", "check"]),
    ];
    for (code, args) in all {
        let text = shown(&desk, 24, code, &[pager], args);
        assert!(codes.is_match(&text), "{args:?} has no colours: {text:?}");
        for plain in [
            &[pager, ("NO_COLOR", "1")][..],
            &[pager, ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")],
            &[pager, ("TERM", "dumb")],
        ] {
            let text = shown(&desk, 24, code, plain, args);
            assert!(!codes.is_match(&text), "{args:?} with {plain:?}: {text:?}");
        }
        let text = shown(&desk, 24, code, &[pager, ("NO_COLOR", "")], args);
        assert!(codes.is_match(&text), "{args:?} with an empty NO_COLOR: {text:?}");
    }
    for (_, args) in &all[..2] {
        let piped = |variables: &[(&str, &str)]| {
            let output = desk.command(args).envs(variables.iter().copied()).output().unwrap();
            let both = [output.stdout, output.stderr].concat();
            codes.is_match(std::str::from_utf8(&both).unwrap())
        };
        assert!(!piped(&[]), "{args:?} in a pipe");
        assert!(piped(&[("CLICOLOR_FORCE", "1")]), "{args:?} in a pipe, colours forced");
        assert!(!piped(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), "{args:?} without colour");
    }
}
