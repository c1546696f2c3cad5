//! The daemon: it waits for the times of the schedules, and has a process do each night's work.
//!
//! One loop on one thread decides everything; sockets, signals and the night's process only bring
//! it news. It never loads a model and never waits for anything but news.

pub mod control;
pub mod listener;
mod messages;
mod notify;
pub mod plan;
mod process;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use self::control::Answer;
use self::control::Asked;
use self::control::Asker;
use self::control::AtWork;
use self::control::DaemonStatus;
use self::control::Request;
use self::control::ScheduleStatus;
use self::listener::Handle;
use self::listener::Listener;
use self::listener::Seen;
use self::messages::Messages;
use self::notify::Notifier;
use self::plan::Ended;
use self::plan::Memory;
use self::plan::Order;
use self::plan::Plan;
use self::process::NightProcess;
use crate::clock::Clock;
use crate::config;
use crate::config::Settings;
use crate::durable::HomeLock;
use crate::phase::home::Home;
use crate::schedule::Schedule;

/// How often the time is looked at: clocks jump, and machines sleep.
const TICK: Duration = Duration::from_secs(1);

/// How long a night may take to stop at a safe point before it is killed. Nothing is lost by that:
/// only the unit of work under way is done again.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the daemon needs beside its home.
pub struct DaemonContext {
    /// The program that is started for a night.
    pub program: PathBuf,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who else may ask it, beside those at its socket.
    pub listener: Box<dyn Listener>,
}

/// Follows the home's schedules until it is told to stop.
///
/// # Errors
/// When another daemon has the home, a schedule or the settings are refused, or the socket cannot
/// be made.
pub fn run(home: &Home, context: DaemonContext) -> anyhow::Result<()> {
    let _lock = HomeLock::acquire_for_daemon(home.dir())?;
    let schedules = load(home)?;
    let mut messages = Messages::new();
    messages.follow(home, &schedules);
    let memory = Memory::read(&home.daemon_memory())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lived = runtime.block_on(async {
        let now = context.clock.now();
        let (asker, mut requests) = Asker::new();
        let mut daemon = Daemon {
            home,
            plan: Plan::new(schedules, memory, now),
            night: None,
            stop_by: None,
            leaving: false,
            notifier: Notifier::new(),
            messages,
            since: now,
            kept: None,
            asker,
            seen: watch::Sender::new(Seen::default()),
            http: None,
            context,
        };
        daemon.live(&mut requests).await
    });
    // Somebody may still be reading the archive: the daemon does not wait for that.
    runtime.shutdown_background();
    lived
}

/// Reads the schedules of a home, each together with its settings.
///
/// # Errors
/// When one of them is refused.
pub fn load(home: &Home) -> anyhow::Result<BTreeMap<String, Schedule>> {
    let schedules = Schedule::read_all(&home.schedules())?;
    for (name, schedule) in &schedules {
        settings_of(home, name, schedule)?;
    }
    Ok(schedules)
}

/// The settings of a schedule's nights.
///
/// # Errors
/// When they are refused.
pub fn settings_of(home: &Home, name: &str, schedule: &Schedule) -> anyhow::Result<Settings> {
    let file = home.config();
    let own = if file.exists() { config::read_layer(&file)? } else { String::new() };
    let origin = file.display().to_string();
    let layer = format!("schedule {name}, [settings]");
    Ok(config::load(&[(&origin, &own), (&layer, &schedule.settings.to_string())], &[])?)
}

struct Daemon<'a> {
    home: &'a Home,
    context: DaemonContext,
    plan: Plan,
    night: Option<NightProcess>,
    /// When a night that was asked to stop is killed.
    stop_by: Option<Instant>,
    /// Whether the daemon ends once the night has.
    leaving: bool,
    notifier: Notifier,
    messages: Messages,
    since: Timestamp,
    /// What stands in the file.
    kept: Option<Memory>,
    asker: Asker,
    seen: watch::Sender<Seen>,
    /// Where the listener listens.
    http: Option<SocketAddr>,
}

/// What the loop is told.
enum News {
    Time,
    Ended(Ended),
    Asked(Asked),
    Reload,
    Leave,
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Daemon<'_> {
    async fn live(&mut self, requests: &mut mpsc::Receiver<Asked>) -> anyhow::Result<()> {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        self.listen()?;
        control::listen(&self.home.socket(), self.asker.clone())?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.notifier.ready();
        tracing::info!(schedules = self.plan.schedules().len(), "the daemon is ready");
        while !(self.leaving && self.night.is_none()) {
            let news = self.news(&mut tick, &mut signals, requests).await;
            self.take(news);
            self.keep();
            self.show();
            self.notifier.status(self.in_a_line());
            self.notifier.gone_on();
        }
        // A socket that nobody listens at would only make clients wait.
        let _ = std::fs::remove_file(self.home.socket());
        self.messages.finish();
        tracing::info!("the daemon ends");
        Ok(())
    }

    async fn news(
        &mut self,
        tick: &mut tokio::time::Interval,
        signals: &mut Signals,
        requests: &mut mpsc::Receiver<Asked>,
    ) -> News {
        let night = self.night.as_mut();
        let ended = async {
            match night {
                Some(night) => night.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            how = ended => News::Ended(how),
            _ = signals.terminate.recv() => News::Leave,
            _ = signals.interrupt.recv() => News::Leave,
            _ = signals.hang_up.recv() => News::Reload,
            Some(asked) = requests.recv() => News::Asked(asked),
            _ = tick.tick() => News::Time,
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Time => self.act(),
            News::Ended(how) => {
                self.night = None;
                self.stop_by = None;
                self.ended(&how);
            }
            News::Asked((request, to)) => {
                let answer = self.answer(request);
                // Whoever asked may have gone away.
                let _ = to.send(answer);
            }
            News::Reload => {
                self.notifier.reloading();
                if let Err(error) = self.reload() {
                    tracing::error!("nothing was changed: {error:#}");
                }
                self.notifier.ready();
            }
            News::Leave => {
                self.notifier.stopping(PATIENCE);
                self.leaving = true;
                self.stop_night();
            }
        }
    }

    /// Notes how a night ended, and has it told.
    fn ended(&mut self, how: &Ended) {
        let now = self.context.clock.now();
        let schedule = self.plan.current().map(|attempt| attempt.schedule.clone());
        // What was stopped because the daemon ends, the next daemon goes on with.
        if !(self.leaving && *how == Ended::Stopped) {
            self.plan.ended(how, now);
        }
        if let Some(schedule) = schedule {
            self.messages.night_ended(self.home, &self.plan, &schedule, how, now);
        }
    }

    /// Does what the time asks for.
    fn act(&mut self) {
        if self.stop_by.is_some_and(|by| by <= Instant::now()) {
            tracing::warn!("the night did not stop; it is killed");
            self.stop_night();
        }
        if self.leaving {
            return;
        }
        match self.plan.order(self.context.clock.now(), self.night.is_some()) {
            Some(Order::Begin(attempt)) => self.begin(&attempt.schedule),
            Some(Order::Stop) if self.stop_by.is_none() => {
                tracing::info!("the window is over; the night is asked to stop");
                self.stop_night();
            }
            _ => {}
        }
    }

    fn begin(&mut self, schedule: &str) {
        let file = self.home.schedules().join(format!("{schedule}.toml"));
        match NightProcess::start(&self.context.program, self.home.dir(), &file) {
            Ok(night) => {
                tracing::info!(schedule, pid = night.pid(), "a night begins");
                self.night = Some(night);
            }
            Err(error) => self.ended(&Ended::Failed(format!("{error:#}"))),
        }
    }

    fn stop_night(&mut self) {
        if let Some(night) = &mut self.night {
            night.stop();
            self.stop_by = Some(Instant::now() + PATIENCE);
        }
    }

    /// Lets the listener listen as its settings say.
    fn listen(&mut self) -> anyhow::Result<()> {
        let handle = Handle { asker: self.asker.clone(), seen: self.seen.subscribe() };
        self.http = self.context.listener.listen(&handle)?;
        self.show();
        Ok(())
    }

    /// Shows the listener what there is to see.
    fn show(&self) {
        self.seen.send_replace(Seen { at: Some(Instant::now()), status: self.status() });
    }

    fn reload(&mut self) -> anyhow::Result<()> {
        let schedules = load(self.home)?;
        self.listen()?;
        tracing::info!(schedules = schedules.len(), "schedules were read again");
        self.messages.follow(self.home, &schedules);
        self.plan.replace(schedules, self.context.clock.now());
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Answer {
        let now = self.context.clock.now();
        match request {
            Request::Status => {}
            Request::Pause => self.plan.pause(true),
            Request::Resume => self.plan.pause(false),
            Request::Stop if self.night.is_some() => self.stop_night(),
            Request::Stop => return Answer::Refused("no night is under way".to_string()),
            Request::Reload => {
                if let Err(error) = self.reload() {
                    return Answer::Refused(format!("nothing was changed: {error:#}"));
                }
            }
            Request::Trigger { schedule } => match self.plan.trigger(&schedule, now) {
                Some(Order::Begin(_)) if !self.leaving => self.begin(&schedule),
                _ => return Answer::Refused(self.why_not(&schedule)),
            },
        }
        Answer::Status(self.status())
    }

    fn why_not(&self, schedule: &str) -> String {
        match self.plan.schedules().get(schedule) {
            None => format!("the daemon has no schedule \"{schedule}\""),
            Some(_) if self.plan.current().is_some() => "a night is under way".to_string(),
            Some(_) => format!("schedule \"{schedule}\" leaves no time now: quiet hours"),
        }
    }

    fn status(&self) -> DaemonStatus {
        let now = self.context.clock.now();
        let schedules = self.plan.schedules().iter().map(|(name, schedule)| {
            let last = self.plan.memory().schedules.get(name).and_then(|one| one.last.as_ref());
            ScheduleStatus {
                name: name.clone(),
                next: schedule.windows(now).next().map(|window| window.start.timestamp()),
                last_at: last.map(|last| last.at),
                last: last.map(|last| last.what.clone()),
            }
        });
        DaemonStatus {
            pid: std::process::id(),
            since: self.since,
            paused: self.plan.memory().paused,
            at_work: self.plan.current().map(|attempt| AtWork {
                schedule: attempt.schedule.clone(),
                until: attempt.end,
                pid: self.night.as_ref().and_then(NightProcess::pid),
            }),
            schedules: schedules.collect(),
            http: self.http,
        }
    }

    /// What `systemctl status` shows.
    fn in_a_line(&self) -> String {
        let stopping = self.night.as_ref().is_some_and(NightProcess::is_asked);
        match self.plan.current() {
            Some(attempt) if stopping => format!("stopping the night of {}", attempt.schedule),
            Some(attempt) if self.night.is_some() => {
                format!("a night of {}, until {:.0}", attempt.schedule, attempt.end)
            }
            Some(attempt) => format!("the night of {} failed and is tried again", attempt.schedule),
            None if self.plan.memory().paused => "paused".to_string(),
            None => "waiting".to_string(),
        }
    }

    /// Writes down what changed. A full disk is no reason to end: it is tried again.
    fn keep(&mut self) {
        if self.kept.as_ref() == Some(self.plan.memory()) {
            return;
        }
        match self.plan.memory().write(&self.home.daemon_memory()) {
            Ok(()) => self.kept = Some(self.plan.memory().clone()),
            Err(error) => tracing::error!("what the daemon did cannot be written down: {error:#}"),
        }
    }
}
