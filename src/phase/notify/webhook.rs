//! A message by a POST of JSON.

use std::path::Path;
use std::time::Duration;

use ureq::Agent;

use super::Failure;
use super::Message;
use crate::inference::remote::Secret;

/// The secret that a setting names: in a file, else in the environment or among the credentials.
pub(super) fn secret(name: &str) -> Result<Secret, Failure> {
    let failed = |why: String| Failure { again: false, ..Failure::new(why) };
    if !Path::new(name).is_absolute() {
        let missing = "neither such an environment variable nor such a file in \
                       $CREDENTIALS_DIRECTORY holds a secret in plain ASCII";
        return Secret::find(name).map_err(|_| failed(format!("{name}: {missing}")));
    }
    let text = std::fs::read_to_string(name).map_err(|error| failed(format!("{name}: {error}")))?;
    let wrong = |_| failed(format!("{name} holds no secret in plain ASCII"));
    Secret::new(&text, name).map_err(wrong)
}

/// Sends the message; any answer of success will do.
pub(super) fn post(
    url: &str,
    secret_name: Option<&str>,
    message: &Message,
    timeout: Duration,
) -> Result<(), Failure> {
    let secret = secret_name.map(secret).transpose()?;
    // Nothing follows a redirection: neither the secret nor the message.
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(timeout))
        .build()
        .into();
    let mut request = agent.post(url).header("content-type", "application/json");
    if let Some(secret) = &secret {
        request = request.header("authorization", secret.header());
    }
    let told = serde_json::to_vec(message).unwrap_or_default();
    match request.send(&told[..]) {
        Ok(response) => match response.status().as_u16() {
            200..=299 => Ok(()),
            status => {
                let again = matches!(status, 408 | 429 | 500..=599);
                Err(Failure { again, ..Failure::new(format!("it answered with status {status}")) })
            }
        },
        Err(ureq::Error::Timeout(_)) => {
            Err(Failure::new(format!("no answer within {} s", timeout.as_secs())))
        }
        // The address may be a secret itself.
        Err(error) => {
            let why = error.to_string().replace(url, "the address");
            let why = secret.as_ref().map_or(why.clone(), |secret| secret.hide_in(&why));
            Err(Failure::new(why))
        }
    }
}
