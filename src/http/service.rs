//! Answers requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use http_body_util::BodyExt as _;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use hyper::Method;
use hyper::Request;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use jiff::Timestamp;

use super::answer;
use super::answer::Answer;
use super::cache::Cache;
use super::dashboard::Dashboard;
use super::metrics;
use super::route::Route;
use super::status::Facts;
use super::status::Moment;
use super::status::Past;
use super::status::Told;
use super::token::Token;
use crate::config::DeviceName;
use crate::daemon::control;
use crate::daemon::listener::Handle;
use crate::phase::home::Home;

/// Longest body of a request, in bytes. None is needed.
const BODY_BYTES: usize = 4 << 10;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long ago the loop may last have gone round: it looks at the time every second.
const ALIVE: Duration = Duration::from_secs(15);

/// How long what was seen of the home is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How long what was read from the archive is.
const PAST_FRESH: Duration = Duration::from_secs(2);

/// The policy of morning reports, which have bars with widths.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                             form-action 'none'; frame-ancestors 'none'";

/// What settings change while it serves.
#[derive(Clone, Copy)]
struct Changing {
    token: Option<Token>,
    device: DeviceName,
}

/// Answers requests about a home and its daemon.
pub(super) struct Service {
    home: Home,
    daemon: Handle,
    changing: Mutex<Changing>,
    dashboard: Arc<Dashboard>,
    moment: Cache<Arc<Moment>>,
    past: Cache<Arc<Past>>,
    page: Cache<Result<String, String>>,
}

impl Service {
    /// One without a token.
    ///
    /// # Errors
    /// When the page's template is faulty.
    pub(super) fn new(home: Home, daemon: Handle) -> anyhow::Result<Self> {
        Ok(Self {
            home,
            daemon,
            changing: Mutex::new(Changing { token: None, device: DeviceName::Cpu }),
            dashboard: Arc::new(Dashboard::new()?),
            moment: Cache::new(FRESH),
            past: Cache::new(PAST_FRESH),
            page: Cache::new(FRESH),
        })
    }

    /// Goes by other settings from now on.
    pub(super) fn change(&self, token: Option<Token>, device: DeviceName) {
        *self.changing.lock().unwrap_or_else(PoisonError::into_inner) = Changing { token, device };
    }

    fn changing(&self) -> Changing {
        *self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request, whatever it is.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        match tokio::time::timeout(PATIENCE, self.answered(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!("a request over HTTP failed: {error:#}");
                answer::text(StatusCode::INTERNAL_SERVER_ERROR, "this failed; the log says why")
            }
            Err(_) => answer::text(StatusCode::SERVICE_UNAVAILABLE, "this takes too long"),
        }
    }

    async fn answered(&self, request: Request<Incoming>) -> anyhow::Result<Answer> {
        let (head, body) = request.into_parts();
        if !is_meant(&head) {
            let why = "only requests to this machine by its loopback names are answered";
            return Ok(answer::text(StatusCode::MISDIRECTED_REQUEST, why));
        }
        if let Err(error) = Limited::new(body, BODY_BYTES).collect().await {
            let status = match error.is::<LengthLimitError>() {
                true => StatusCode::PAYLOAD_TOO_LARGE,
                false => StatusCode::BAD_REQUEST,
            };
            return Ok(answer::text(status, "the body cannot be taken"));
        }
        let Some(route) = Route::of(head.uri.path()) else {
            return Ok(answer::text(StatusCode::NOT_FOUND, "there is nothing here"));
        };
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        match route {
            Route::Control(request) if head.method == Method::POST => {
                self.control(&head, request).await
            }
            Route::Control(_) => Ok(no_such_method(&route)),
            _ if !reads => Ok(no_such_method(&route)),
            Route::Health => Ok(self.health()),
            Route::Ready => self.ready().await,
            Route::Status => answer::json(StatusCode::OK, &self.facts().await?.to_json()),
            Route::Metrics => {
                let text = metrics::render(&self.facts().await?, self.late().is_none());
                Ok(answer::of(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
            }
            Route::Dashboard => self.dashboard().await,
            Route::Report(night) => self.report(night).await,
        }
    }

    async fn facts(&self) -> anyhow::Result<Facts> {
        let home = self.home.clone();
        let moment = self.moment.get(async { move || Arc::new(Moment::of(&home)) }).await?;
        let home = self.home.clone();
        let past = self.past.get(async { move || Arc::new(Past::of(&home)) }).await?;
        let seen = self.daemon.seen.borrow().clone();
        Ok(Facts { seen, moment, past, device: self.changing().device })
    }

    /// How long the loop has not gone round, where that is too long.
    fn late(&self) -> Option<Duration> {
        let age = self.daemon.seen.borrow().age().unwrap_or(Duration::MAX);
        Some(age).filter(|age| *age > ALIVE)
    }

    fn health(&self) -> Answer {
        match self.late() {
            None => answer::text(StatusCode::OK, "ok"),
            Some(late) => {
                let why = format!("the daemon's loop stands still for {} s", late.as_secs());
                answer::text(StatusCode::SERVICE_UNAVAILABLE, &why)
            }
        }
    }

    async fn ready(&self) -> anyhow::Result<Answer> {
        let facts = self.facts().await?;
        let not = |why: &str| answer::text(StatusCode::SERVICE_UNAVAILABLE, why);
        if facts.seen.status.schedules.is_empty() {
            return Ok(not("the home has no schedule"));
        }
        Ok(match &facts.moment.closed {
            Some(why) => not(why),
            None => answer::text(StatusCode::OK, "ready"),
        })
    }

    async fn dashboard(&self) -> anyhow::Result<Answer> {
        let render = async {
            let (facts, dashboard) = (self.facts().await, self.dashboard.clone());
            let home = self.home.dir().display().to_string();
            move || {
                let page = facts.and_then(|it| dashboard.render(&it, &home, Timestamp::now()));
                page.map_err(|error| format!("{error:#}"))
            }
        };
        let page = self.page.get(render).await?.map_err(anyhow::Error::msg)?;
        Ok(answer::page(page, self.dashboard.policy()))
    }

    async fn report(&self, night: u32) -> anyhow::Result<Answer> {
        let file = self.home.page(night);
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await?;
        match read {
            Ok(page) => Ok(answer::page(page, HeaderValue::from_static(REPORT_POLICY))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let why = format!("night {night} has left no report");
                Ok(answer::text(StatusCode::NOT_FOUND, &why))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn control(&self, head: &Parts, request: control::Request) -> anyhow::Result<Answer> {
        let Some(token) = self.changing().token else {
            let why = "no token is set: see http.token_file in docs/daemon.md";
            return refused(StatusCode::FORBIDDEN, why);
        };
        let given = head.headers.get(header::AUTHORIZATION);
        if !given.is_some_and(|given| token.is_in(given.as_bytes())) {
            tracing::warn!(?request, "refused over HTTP: the token is missing or wrong");
            let answer = refused(StatusCode::UNAUTHORIZED, "the token is missing or wrong")?;
            let scheme = HeaderValue::from_static("Bearer");
            return Ok(answer::with(answer, header::WWW_AUTHENTICATE, scheme));
        }
        if let control::Request::Trigger { schedule } = &request
            && !self.daemon.seen.borrow().status.schedules.iter().any(|it| it.name == *schedule)
        {
            return refused(StatusCode::NOT_FOUND, "the daemon has no such schedule");
        }
        tracing::info!(?request, "asked over HTTP");
        match self.daemon.asker.ask(request).await {
            control::Answer::Status(status) => answer::json(StatusCode::OK, &Told::of(&status)),
            control::Answer::Refused(why) => refused(StatusCode::CONFLICT, &why),
        }
    }
}

fn refused(status: StatusCode, why: &str) -> anyhow::Result<Answer> {
    answer::json(status, &serde_json::json!({ "refused": why }))
}

fn no_such_method(route: &Route) -> Answer {
    let answer = answer::text(StatusCode::METHOD_NOT_ALLOWED, "this method does nothing here");
    answer::with(answer, header::ALLOW, HeaderValue::from_static(route.methods()))
}

/// Whether whoever sent it meant this machine: a page from elsewhere whose name was made to lead
/// here names another host.
fn is_meant(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let host = Authority::try_from(host.as_bytes());
    host.is_ok_and(|host| is_loopback(&host)) && head.uri.authority().is_none_or(is_loopback)
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
