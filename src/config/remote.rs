//! Servers that generate in the place of this machine.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use super::ConfigError;

/// Servers at most; a night has no work for more.
const MAX_ENDPOINTS: usize = 64;

/// Servers that generate in the place of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// Their addresses, `http://HOST:PORT` or `https://…`; none where this machine generates.
    pub endpoints: Vec<String>,
    /// The name under which they serve the base model.
    pub model: Option<String>,
    /// The environment variable, or the file of `$CREDENTIALS_DIRECTORY`, with their key.
    pub api_key_env: Option<String>,
    /// Requests under way at each of them at once.
    pub concurrency: usize,
    /// Longest time for one try of a request, in seconds.
    pub timeout_s: u64,
    /// Tries of a request beside the first.
    pub retries: u32,
    /// Whether adapters are loaded into the servers by their endpoints for that.
    pub load_adapters: bool,
    /// The folder of adapters as the servers see it, where that is not this machine's.
    pub adapters_dir: Option<PathBuf>,
}

impl Remote {
    /// Whether servers generate.
    pub fn is_on(&self) -> bool {
        !self.endpoints.is_empty()
    }
}

/// Fails on the first value that no server could be asked with.
pub(super) fn check(remote: &Remote) -> Result<(), ConfigError> {
    let wrong = |key: &'static str, reason: String| Err(ConfigError::Range { key, reason });
    if remote.endpoints.len() > MAX_ENDPOINTS {
        let found = remote.endpoints.len();
        let reason = format!("names {found} servers; it may name {MAX_ENDPOINTS}");
        return wrong("remote.endpoints", reason);
    }
    for (index, endpoint) in remote.endpoints.iter().enumerate() {
        if let Err(why) = check_endpoint(endpoint) {
            // The address is not repeated where it may hold a password.
            let shown = if endpoint.contains('@') { "an address" } else { endpoint.as_str() };
            return wrong("remote.endpoints", format!("names {shown}: {why}"));
        }
        if remote.endpoints[..index].iter().any(|other| same(other, endpoint)) {
            return wrong("remote.endpoints", format!("names {endpoint} twice"));
        }
    }
    if remote.is_on() && remote.model.as_ref().is_none_or(|model| model.trim().is_empty()) {
        let reason = "is missing; it must be the name under which the servers list the base model";
        return wrong("remote.model", reason.into());
    }
    if let Some(name) = &remote.api_key_env
        && !is_name_of_secret(name)
    {
        // Not repeated: whoever mistakes it for the place of the key has put the key there.
        let reason = "must be the name of an environment variable or credential, not the key";
        return wrong("remote.api_key_env", reason.into());
    }
    let counts = [
        ("remote.concurrency", remote.concurrency as u64, 1, 1024),
        ("remote.timeout_s", remote.timeout_s, 1, 3600),
        ("remote.retries", u64::from(remote.retries), 0, 20),
    ];
    for (key, value, low, high) in counts {
        if !(low..=high).contains(&value) {
            return wrong(key, format!("is {value}; it must be from {low} to {high}"));
        }
    }
    Ok(())
}

/// Whether a text may be the name of an environment variable or a credential.
pub(super) fn is_name_of_secret(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

/// Whether two addresses are of one server.
fn same(left: &str, right: &str) -> bool {
    left.trim_end_matches('/').eq_ignore_ascii_case(right.trim_end_matches('/'))
}

fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    if endpoint.contains('@') {
        return Err("it must not hold a user or password; use remote.api_key_env");
    }
    if endpoint.contains(['?', '#']) {
        return Err("it must end with the path, without `?` or `#`");
    }
    check_address(endpoint)
}

/// Fails unless a text may be the address of something that speaks HTTP.
pub(super) fn check_address(address: &str) -> Result<(), &'static str> {
    let rest = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"));
    let Some(rest) = rest else { return Err("it must begin with http:// or https://") };
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') || rest.contains(char::is_whitespace) {
        return Err("it must name a host, as in http://gpu1:8000");
    }
    Ok(())
}
