//! From a server's answer to a continuation that keeps the same promises as one of the engine in
//! this process.

use super::ServedModel;
use super::http::Failure;
use super::protocol::Answer;
use super::protocol::Finish;
use crate::inference::Continuation;
use crate::inference::Generation;
use crate::inference::Request;
use crate::inference::TokenScore;
use crate::rollout::StopReason;

/// Log-probabilities above this are no rounding.
const ABOVE_ZERO: f32 = 1e-3;

/// The continuation in an answer.
///
/// With ids its text is decoded here and cut as the engine does it, so that nothing depends on how
/// a server decodes or where it looks for stop strings. `known` says whether the server's
/// log-probabilities are those of the distribution that was sampled from.
///
/// Without ids the text is the server's, cut again, and the tokens are that text encoded here:
/// not what was sampled, so there are no log-probabilities with them.
pub(super) fn settle(
    mut answer: Answer,
    request: &Request,
    model: &ServedModel,
    known: bool,
) -> Result<Generation, Failure> {
    check_prompt(&answer, request)?;
    let Some(ids) = answer.ids.take() else {
        return Ok(from_text(&answer, request, model));
    };
    check_ids(&ids, request, model)?;
    let logprobs = match answer.logprobs.take() {
        Some(logprobs) => {
            check_logprobs(&logprobs, ids.len())?;
            if known { logprobs } else { Vec::new() }
        }
        None => Vec::new(),
    };
    from_ids(ids, logprobs, answer.finish, request, model)
}

/// The prompt must be read as it was sent: a server that adds a token to it, or parts it otherwise,
/// is another policy.
fn check_prompt(answer: &Answer, request: &Request) -> Result<(), Failure> {
    let sent = request.prompt.len();
    if answer.prompt_ids.as_ref().is_some_and(|read| *read != request.prompt) {
        let read = answer.prompt_ids.as_ref().map_or(0, Vec::len);
        let why = format!("it read other tokens than the prompt's: {read}, {sent} were sent");
        return Err(Failure::wrong(why));
    }
    match answer.prompt_tokens {
        Some(read) if read != sent => {
            let why = format!("it counts {read} tokens in a prompt of {sent}");
            Err(Failure::wrong(why))
        }
        _ => Ok(()),
    }
}

fn check_ids(ids: &[u32], request: &Request, model: &ServedModel) -> Result<(), Failure> {
    if let Some(token) = ids.iter().find(|token| **token as usize >= model.vocabulary) {
        let why = format!(
            "it wrote token {token}, and the model has {}: it serves another model",
            model.vocabulary
        );
        return Err(Failure::wrong(why));
    }
    if ids.len() > request.max_tokens {
        let why = format!("it wrote {} tokens, of {} allowed", ids.len(), request.max_tokens);
        return Err(Failure::wrong(why));
    }
    match ids.is_empty() {
        true => Err(Failure::broken("a completion without a token")),
        false => Ok(()),
    }
}

fn check_logprobs(logprobs: &[f32], tokens: usize) -> Result<(), Failure> {
    if logprobs.len() != tokens {
        let why = format!("it gave {} log-probabilities for {tokens} tokens", logprobs.len());
        return Err(Failure::wrong(why));
    }
    match logprobs.iter().find(|logprob| logprob.is_nan() || **logprob > ABOVE_ZERO) {
        Some(found) => Err(Failure::wrong(format!("it gave the log-probability {found}"))),
        None => Ok(()),
    }
}

fn from_ids(
    mut tokens: Vec<u32>,
    mut logprobs: Vec<f32>,
    finish: Finish,
    request: &Request,
    model: &ServedModel,
) -> Result<Generation, Failure> {
    let tokenizer = &model.tokenizer;
    let ends = |token: u32| tokenizer.is_end(token) || request.stop_tokens.contains(&token);
    let ended = tokens.iter().position(|token| ends(*token));
    let stopped = first_stop(&tokens, request, model);
    let (kept, text, stop) = match (ended, stopped) {
        (Some(at), stopped) if stopped.as_ref().is_none_or(|(kept, _)| at < *kept) => {
            (at + 1, tokenizer.decode(&tokens[..at]), StopReason::EndOfText)
        }
        (_, Some((kept, text))) => (kept, text, StopReason::StopString),
        _ if finish == Finish::Length => {
            (tokens.len(), tokenizer.decode(&tokens), StopReason::Length)
        }
        _ => {
            // An end that the server's copy of the model knows and this one does not. It was
            // sampled, so it stays; a special token is no text.
            let last = tokens.len() - 1;
            let special = tokenizer.decode_without_specials(&tokens[last..]).is_empty();
            let shown = if special { &tokens[..last] } else { &tokens[..] };
            (tokens.len(), tokenizer.decode(shown), StopReason::EndOfText)
        }
    };
    // Servers that do not look for stop strings write on after them.
    tokens.truncate(kept);
    logprobs.truncate(kept);
    Ok(Generation { tokens, logprobs, scores: Vec::new(), text, stop })
}

/// How many tokens it takes until the text holds a stop string, and the text before it.
fn first_stop(tokens: &[u32], request: &Request, model: &ServedModel) -> Option<(usize, String)> {
    let holds = |text: &str| request.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
    let text_of = |n: usize| model.tokenizer.decode(&tokens[..n]);
    holds(&text_of(tokens.len()))?;
    // Text only grows with tokens, except for the parts of a character at its end.
    let (mut without, mut with) = (0, tokens.len());
    while without + 1 < with {
        let middle = without.midpoint(with);
        match holds(&text_of(middle)) {
            Some(_) => with = middle,
            None => without = middle,
        }
    }
    let mut text = text_of(with);
    text.truncate(holds(&text)?);
    Some((with, text))
}

fn from_text(answer: &Answer, request: &Request, model: &ServedModel) -> Generation {
    let tokenizer = &model.tokenizer;
    let found = request.stop.iter().filter_map(|stop| {
        let at = answer.text.find(stop.as_str())?;
        Some((at, at + stop.len()))
    });
    if let Some((start, end)) = found.min() {
        return Generation {
            tokens: tokenizer.encode(&answer.text[..end]),
            logprobs: Vec::new(),
            scores: Vec::new(),
            text: answer.text[..start].to_string(),
            stop: StopReason::StopString,
        };
    }
    let mut tokens = tokenizer.encode(&answer.text);
    let stop = match (answer.finish, request.stop.as_slice()) {
        (Finish::Length, _) => StopReason::Length,
        // The server counts the tokens of the stop string that it cut off.
        (Finish::Stop, [stop]) if answer.completion_tokens.is_some_and(|n| n > tokens.len()) => {
            tokens.extend(tokenizer.encode(stop));
            StopReason::StopString
        }
        (Finish::Stop, _) => StopReason::EndOfText,
    };
    Generation { tokens, logprobs: Vec::new(), scores: Vec::new(), text: answer.text.clone(), stop }
}

/// The scores of the given tokens, from those of the whole prompt. A server tells no normaliser and
/// no mean of the logits: they are NaN.
pub(super) fn scores(answer: Answer, given: &Continuation) -> Result<Vec<TokenScore>, Failure> {
    let read = given.prompt.len() + given.tokens.len();
    let positions = answer.prompt_scores.unwrap_or_default();
    if positions.len() != read {
        let why = format!("it scored {} tokens of a prompt of {read}", positions.len());
        return Err(Failure::wrong(why));
    }
    let pairs = given.tokens.iter().zip(positions.into_iter().skip(given.prompt.len()));
    pairs
        .map(|(token, scores)| {
            let logprob = scores.as_ref().and_then(|scores| scores.get(token)).copied();
            let logprob = logprob.filter(|logprob| *logprob <= ABOVE_ZERO);
            let why = || Failure::wrong(format!("it gave no score for token {token}"));
            let logprob = logprob.ok_or_else(why)?;
            Ok(TokenScore { logprob, log_normaliser: f32::NAN, mean_logit: f32::NAN })
        })
        .collect()
}
