//! A small HTTP server on the loopback address, for tests that play a server.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    /// With the query.
    pub(crate) path: String,
    /// Names in small letters.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// The value of a header, by its name in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null when it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after so many bytes of the body, whose whole length was announced.
    pub(crate) cut: Option<usize>,
    /// Close the connection without a word.
    pub(crate) dead: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None, dead: false }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::new(200, value.to_string())
    }

    fn send(&self, mut stream: TcpStream) -> std::io::Result<()> {
        if self.dead {
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len());
        stream.write_all(head.as_bytes())?;
        let sent = self.cut.unwrap_or(self.body.len()).min(self.body.len());
        stream.write_all(&self.body[..sent])
    }
}

/// Serves until the test process ends, each connection in a thread; returns the server's address.
pub(crate) fn serve(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                // A client that hangs up early is its own business.
                let _ = read(&stream).and_then(|call| answer(&call).send(stream));
            });
        }
    });
    address
}

/// An address at which nothing listens: it was free a moment ago.
pub(crate) fn nobody() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("port");
    format!("http://{free}")
}

fn read(stream: &TcpStream) -> std::io::Result<Call> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    let mut call = Call { path, ..Call::default() };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        call.headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let length = call.header("content-length").and_then(|value| value.parse().ok());
    call.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut call.body)?;
    Ok(call)
}
