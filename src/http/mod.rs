//! The daemon over HTTP, for this machine alone: a page for the browser, figures for programs.
//!
//! It serves on the daemon's own thread and must not hold it up: what reads files or the archive
//! runs elsewhere, is made once for all who ask within a second or two, and every connection has
//! limits in time and size. Reading needs no token; what changes something does.

mod answer;
mod cache;
mod dashboard;
pub mod metrics;
mod route;
mod service;
mod status;
mod token;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use self::service::Service;
use self::token::Token;
use crate::config;
use crate::config::Settings;
use crate::daemon::listener::Handle;
use crate::daemon::listener::Listener;
use crate::phase::home::Home;

/// Connections at a time; further ones wait.
const CONNECTIONS: usize = 64;

/// Longest head of a request, in bytes, and headers in it.
const HEAD_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;

/// How long a client may take to send the head of its request.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may last: it brings one request.
const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon's listener for HTTP.
pub struct Server {
    home: Home,
    /// `key=value` from the command line, over the home's settings.
    set: Vec<String>,
    running: Option<Running>,
}

/// A listener at work; it ends when this is dropped.
struct Running {
    /// As the settings have it: its port may be 0.
    wanted: SocketAddr,
    address: SocketAddr,
    service: Arc<Service>,
    accepting: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// A server for the daemon of `home`, whose settings `set` overrides.
    pub fn new(home: Home, set: Vec<String>) -> Self {
        Self { home, set, running: None }
    }

    /// Where it would listen; none where it is turned off.
    ///
    /// # Errors
    /// When the settings are refused, or the token cannot be had.
    pub fn check(&self) -> anyhow::Result<Option<SocketAddr>> {
        let settings = self.settings()?;
        Token::find(&settings.http, &self.home)?;
        Ok(settings.http.address()?)
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let file = self.home.config();
        let text = if file.exists() { config::read_layer(&file)? } else { String::new() };
        Ok(config::load(&[(&file.display().to_string(), &text)], &self.set)?)
    }
}

impl Listener for Server {
    fn listen(&mut self, daemon: &Handle) -> anyhow::Result<Option<SocketAddr>> {
        let settings = self.settings()?;
        let token = Token::find(&settings.http, &self.home)?;
        let Some(wanted) = settings.http.address()? else {
            self.running = None;
            return Ok(None);
        };
        if let Some(running) = self.running.as_ref().filter(|running| running.wanted == wanted) {
            running.service.change(token, settings.inference.device);
            return Ok(Some(running.address));
        }
        let listener = bind(wanted).with_context(|| {
            format!("cannot listen at {wanted}, as `http.listen` says; is it in use?")
        })?;
        let address = listener.local_addr()?;
        let service = Service::new(self.home.clone(), daemon.clone())?;
        service.change(token, settings.inference.device);
        let service = Arc::new(service);
        let accepting = tokio::spawn(accept(listener, service.clone())).abort_handle();
        tracing::info!("listening at http://{address}/");
        self.running = Some(Running { wanted, address, service, accepting });
        Ok(Some(address))
    }
}

/// A listener whose address can be had again at once by the next daemon.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    serve(stream, &service).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection over HTTP failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers the one request of a connection.
async fn serve(stream: TcpStream, service: &Service) {
    let answer = service_fn(|request| async { Ok::<_, Infallible>(service.answer(request).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection over HTTP ended early"),
        Err(_) => tracing::debug!("a connection over HTTP took too long"),
    }
}
