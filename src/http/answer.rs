//! Answers, and the headers that all of them have.

use http_body_util::Full;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;
use serde::Serialize;

/// What a page may load and run that brings no policy of its own: nothing.
const NOTHING: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; \
                       frame-ancestors 'none'";

/// A response that is whole from the start.
pub(super) type Answer = Response<Full<Bytes>>;

/// An answer of a media type.
pub(super) fn of(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, NOTHING),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// A line of text.
pub(super) fn text(status: StatusCode, line: &str) -> Answer {
    of(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> anyhow::Result<Answer> {
    let mut body = serde_json::to_vec_pretty(value)?;
    body.push(b'\n');
    Ok(of(status, "application/json", body))
}

/// A page with a policy of its own.
pub(super) fn page(html: String, policy: HeaderValue) -> Answer {
    with(
        of(StatusCode::OK, "text/html; charset=utf-8", html),
        header::CONTENT_SECURITY_POLICY,
        policy,
    )
}

/// The answer with a header, in the place of one of that name.
pub(super) fn with(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}
