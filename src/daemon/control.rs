//! The daemon's socket: one request a connection, a line of JSON each way.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

/// Longest request, in bytes.
const LONGEST: u64 = 64 << 10;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that wait to be answered.
const QUEUE: usize = 16;

/// What can be asked of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What it is doing.
    Status,
    /// Begin a night of this schedule now.
    Trigger {
        /// The schedule.
        schedule: String,
    },
    /// Stop the night under way; it goes on the next time.
    Stop,
    /// Let nothing begin.
    Pause,
    /// Let nights begin again.
    Resume,
    /// Read schedules and settings again.
    Reload,
}

/// What the daemon says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its process.
    pub pid: u32,
    /// Since when it runs.
    pub since: Timestamp,
    /// Whether it was told to let nothing begin.
    pub paused: bool,
    /// The night under way.
    pub at_work: Option<AtWork>,
    /// Its schedules by name.
    pub schedules: Vec<ScheduleStatus>,
    /// Where it listens for HTTP.
    #[serde(default)]
    pub http: Option<SocketAddr>,
}

/// A night under way, or one that waits to be tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtWork {
    /// The schedule that asked for it.
    pub schedule: String,
    /// When its window ends.
    pub until: Timestamp,
    /// Its process; none while the night waits to be tried again.
    pub pid: Option<u32>,
}

/// A schedule as the daemon follows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// When its next night begins.
    pub next: Option<Timestamp>,
    /// When something was last done about it.
    pub last_at: Option<Timestamp>,
    /// What that was.
    pub last: Option<String>,
}

/// The daemon's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What it is doing, after what was asked was done.
    Status(DaemonStatus),
    /// Why it did not do what was asked.
    Refused(String),
}

/// A request with the place where its answer goes.
pub(super) type Asked = (Request, oneshot::Sender<Answer>);

/// Brings requests to the daemon's loop.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<Asked>);

impl Asker {
    /// One, and where its requests come out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Asks the daemon.
    pub async fn ask(&self, request: Request) -> Answer {
        let asked = async {
            let (to, answer) = oneshot::channel();
            self.0.send((request, to)).await.ok()?;
            answer.await.ok()
        };
        asked.await.unwrap_or_else(|| Answer::Refused("the daemon ends".to_string()))
    }
}

/// Listens at `path`, for the daemon's own user and group.
///
/// # Errors
/// When the socket cannot be made.
pub(super) fn listen(path: &Path, asker: Asker) -> anyhow::Result<()> {
    // The daemon's lock is held: a socket that is there is left from one that died.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove {}", path.display()));
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let asker = asker.clone();
                    tokio::spawn(async move {
                        let served = tokio::time::timeout(PATIENCE, serve(stream, &asker)).await;
                        if !matches!(served, Ok(Ok(()))) {
                            tracing::debug!("a connection to the socket ended early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the socket failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn serve(stream: tokio::net::UnixStream, asker: &Asker) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(LONGEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => asker.ask(request).await,
        Err(error) => Answer::Refused(format!("no such request: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    Ok(writer.write_all(&text).await?)
}

/// Whether this process does a night's work for the daemon at `path`.
pub fn is_night_of(path: &Path) -> bool {
    let own = Some(std::process::id());
    match ask(path, &Request::Status) {
        Ok(Some(Answer::Status(status))) => status.at_work.is_some_and(|work| work.pid == own),
        // One that does not answer tells nobody.
        _ => false,
    }
}

/// Asks the daemon at `path`; none where no daemon listens.
///
/// # Errors
/// When it does not answer.
pub fn ask(path: &Path, request: &Request) -> anyhow::Result<Option<Answer>> {
    let Ok(mut stream) = UnixStream::connect(path) else { return Ok(None) };
    let asked = || -> anyhow::Result<Answer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        stream.write_all(&text)?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    let mut asked = asked;
    asked().map(Some).with_context(|| format!("the daemon at {} does not answer", path.display()))
}
