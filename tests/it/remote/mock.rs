//! A server for tests, in the shapes of vLLM and others, that fails on demand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nightschool::inference::remote::Options;
use nightschool::inference::remote::ServedModel;
use nightschool::model::tokenizer::Tokenizer;
use serde_json::Value;
use serde_json::json;

use crate::support::http;
use crate::support::http::Call;
use crate::support::http::Reply;

/// The vocabulary's size: that of the tokenizer, and some rows that no token has.
pub(super) const VOCABULARY: usize = 920;

/// The tokenizer of the model that is served.
pub(super) fn tokenizer() -> Tokenizer {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    Tokenizer::from_file(&fixtures.join("chat/qwen2/tokenizer.json")).unwrap()
}

pub(super) fn served() -> ServedModel {
    ServedModel::new(tokenizer(), VOCABULARY, 512)
}

/// Quick and patient enough for tests: nothing fails for want of time unless a server hangs.
pub(super) fn options(mocks: &[&Mock]) -> Options {
    Options {
        endpoints: mocks.iter().map(|mock| mock.address.clone()).collect(),
        model: "toy".into(),
        secret: None,
        concurrency: 4,
        timeout: Duration::from_secs(20),
        retries: 3,
        backoff: Duration::from_millis(2),
        load_adapters: true,
    }
}

/// In which shape completions come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Ids when asked, log-probabilities of the untempered distribution.
    Vllm,
    /// The same, with log-probabilities of the distribution that is sampled from, whatever it is.
    ProcessedVllm,
    /// As the first, with ids in the place of the tokens' texts only.
    OldVllm,
    /// Ids when asked, log-probabilities after the temperature.
    Sglang,
    /// Ids beside log-probabilities; never those of a stop string.
    LlamaCpp,
    /// Text prompts in, text out; tokens can be asked for.
    LlamaCppPython,
    /// The same, without a way to ask for tokens.
    Bare,
}

/// What to do with a completion request, but for those of a survey.
pub(super) enum Act {
    Say(Reply),
    /// The usual answer, changed.
    Change(fn(&mut Value)),
    /// The usual answer, cut after so many bytes.
    Cut(usize),
    /// Nothing, until [`Mock::release`].
    Hang,
}

/// The server.
pub(super) struct Mock {
    pub(super) address: String,
    shape: Shape,
    tokenizer: Tokenizer,
    /// What it writes, for the seed of the request.
    pub(super) speech: Mutex<fn(u64) -> String>,
    pub(super) script: Mutex<VecDeque<Act>>,
    /// Whether adapters are loaded only after [`Mock::release`].
    pub(super) slow_adapters: AtomicBool,
    /// A model that it serves in the place of the one that is meant.
    pub(super) other_model: Mutex<Option<String>>,
    /// Called with each completion request, but for those of a survey.
    pub(super) watch: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// Whether all connections are closed at once.
    pub(super) dead: AtomicBool,
    /// The key that it wants.
    pub(super) key: Mutex<Option<String>>,
    pub(super) adapters: Mutex<Vec<String>>,
    /// Completions and adapters, in the order of their requests.
    pub(super) log: Mutex<Vec<String>>,
    pub(super) bodies: Mutex<Vec<Value>>,
    /// Requests under way now, and at most.
    load: Mutex<(usize, usize)>,
    changed: Condvar,
    released: AtomicBool,
    /// How many requests must have been under way together before one is answered.
    pub(super) together: Mutex<usize>,
}

impl Mock {
    pub(super) fn start(shape: Shape) -> Arc<Self> {
        Arc::new_cyclic(|mock: &Weak<Self>| {
            let mock = mock.clone();
            let answer = move |call: &Call| match mock.upgrade() {
                Some(mock) => mock.answer(call),
                None => Reply::new(503, ""),
            };
            Self {
                address: http::serve(answer),
                shape,
                tokenizer: tokenizer(),
                speech: Mutex::new(|seed| format!(" blue {}\nred", seed % 100)),
                script: Mutex::default(),
                slow_adapters: AtomicBool::new(false),
                other_model: Mutex::default(),
                watch: Mutex::default(),
                dead: AtomicBool::new(false),
                key: Mutex::default(),
                adapters: Mutex::default(),
                log: Mutex::default(),
                bodies: Mutex::default(),
                load: Mutex::default(),
                changed: Condvar::new(),
                released: AtomicBool::new(false),
                together: Mutex::new(0),
            }
        })
    }

    /// Lets those that hang go.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    pub(super) fn push(&self, act: Act) {
        self.script.lock().unwrap().push_back(act);
    }

    /// Requests under way together, at most.
    pub(super) fn most(&self) -> usize {
        self.load.lock().unwrap().1
    }

    /// Bodies of the completion requests, but for those of surveys.
    pub(super) fn asked(&self) -> Vec<Value> {
        self.bodies.lock().unwrap().clone()
    }

    fn answer(&self, call: &Call) -> Reply {
        if self.dead.load(Ordering::SeqCst) {
            return Reply { dead: true, ..Reply::new(200, "") };
        }
        let sent = call.header("authorization").unwrap_or_default();
        if let Some(key) = &*self.key.lock().unwrap()
            && sent != format!("Bearer {key}")
        {
            let message = format!("bad\u{7}\nkey: {sent}{}", "!".repeat(1000));
            return Reply::new(401, json!({"error": {"message": message}}).to_string());
        }
        match call.path.as_str() {
            "/health" if !self.is_python() => Reply::new(200, ""),
            "/v1/models" => self.models(),
            "/tokenize" if !self.is_python() => self.tokens(call.json()["prompt"].as_str()),
            "/extras/tokenize" if self.shape == Shape::LlamaCppPython => {
                self.tokens(call.json()["input"].as_str())
            }
            "/v1/completions" => self.complete(&call.json()),
            "/v1/load_lora_adapter" if self.is_vllm() => self.load_adapter(&call.json()),
            "/load_lora_adapter" if self.shape == Shape::Sglang => self.load_adapter(&call.json()),
            "/v1/unload_lora_adapter" | "/unload_lora_adapter" => {
                let name = call.json()["lora_name"].as_str().unwrap().to_string();
                self.adapters.lock().unwrap().retain(|loaded| *loaded != name);
                self.log.lock().unwrap().push(format!("unload {name}"));
                Reply::new(200, format!("removed {name}"))
            }
            _ => Reply::new(404, json!({"detail": "Not Found"}).to_string()),
        }
    }

    fn is_vllm(&self) -> bool {
        matches!(self.shape, Shape::Vllm | Shape::ProcessedVllm | Shape::OldVllm)
    }

    fn is_python(&self) -> bool {
        matches!(self.shape, Shape::LlamaCppPython | Shape::Bare)
    }

    fn models(&self) -> Reply {
        let owner = match self.shape {
            Shape::Vllm | Shape::ProcessedVllm | Shape::OldVllm => "vllm",
            Shape::Sglang => "sglang",
            Shape::LlamaCpp => "llamacpp",
            Shape::LlamaCppPython | Shape::Bare => "me",
        };
        let adapters = self.adapters.lock().unwrap().clone();
        let other = self.other_model.lock().unwrap().clone();
        let base = if other.is_some() { None } else { Some("toy".to_string()) };
        let names = base.into_iter().chain(other).chain(adapters);
        let all: Vec<Value> = names
            .map(|name| json!({"id": name, "owned_by": owner, "max_model_len": 256}))
            .collect();
        Reply::json(&json!({"object": "list", "data": all}))
    }

    fn tokens(&self, text: Option<&str>) -> Reply {
        let tokens = self.tokenizer.encode_with_specials(text.unwrap());
        Reply::json(&json!({"tokens": tokens, "count": tokens.len()}))
    }

    fn load_adapter(&self, body: &Value) -> Reply {
        let name = body["lora_name"].as_str().unwrap().to_string();
        let path = body["lora_path"].as_str().unwrap();
        if path.contains("nowhere") {
            return Reply::new(404, json!({"error": {"message": "no such path"}}).to_string());
        }
        if self.slow_adapters.load(Ordering::SeqCst) {
            self.hang();
        }
        let mut adapters = self.adapters.lock().unwrap();
        if adapters.contains(&name) {
            let message = format!("The lora adapter '{name}' has already been loaded.");
            return Reply::new(400, json!({"error": {"message": message}}).to_string());
        }
        self.log.lock().unwrap().push(format!("load {name}"));
        adapters.push(name);
        Reply::new(200, "Success")
    }

    fn complete(&self, body: &Value) -> Reply {
        let ids: Option<Vec<u32>> = serde_json::from_value(body["prompt"].clone()).ok();
        if self.is_python() && ids.is_some() {
            return Reply::new(500, json!({"error": {"message": "not a string"}}).to_string());
        }
        let open = |text: &str| text == "The" && body["max_tokens"] == 1;
        let text = body["prompt"].as_str().map(str::to_string);
        let text = text.unwrap_or_else(|| self.tokenizer.decode(&ids.unwrap_or_default()));
        if open(&text) {
            return Reply::json(&self.usual(body, &text));
        }
        self.enter();
        self.bodies.lock().unwrap().push(body.clone());
        let reply = self.act(body, &text);
        self.load.lock().unwrap().0 -= 1;
        reply
    }

    /// Counts a request in, and holds it until as many have met as shall.
    fn enter(&self) {
        let mut load = self.load.lock().unwrap();
        load.0 += 1;
        load.1 = load.1.max(load.0);
        self.changed.notify_all();
        let together = *self.together.lock().unwrap();
        let _met = self.changed.wait_while(load, |load| load.1 < together).unwrap();
    }

    fn act(&self, body: &Value, prompt: &str) -> Reply {
        if let Some(watch) = &*self.watch.lock().unwrap() {
            watch();
        }
        let model = body["model"].as_str().unwrap();
        let name = model.strip_prefix("toy:").unwrap_or(model);
        if name != "toy" && !self.adapters.lock().unwrap().iter().any(|known| known == name) {
            let message = format!("The model `{name}` does not exist.");
            return Reply::new(404, json!({"error": {"message": message}}).to_string());
        }
        self.log.lock().unwrap().push(format!("complete {name}"));
        let act = self.script.lock().unwrap().pop_front();
        let mut usual = self.usual(body, prompt);
        match act {
            None => Reply::json(&usual),
            Some(Act::Say(reply)) => reply,
            Some(Act::Change(change)) => {
                change(&mut usual);
                Reply::json(&usual)
            }
            Some(Act::Cut(bytes)) => Reply { cut: Some(bytes), ..Reply::json(&usual) },
            Some(Act::Hang) => {
                self.hang();
                Reply::json(&usual)
            }
        }
    }

    /// Waits for [`Mock::release`].
    fn hang(&self) {
        let load = self.load.lock().unwrap();
        let held = |_: &mut (usize, usize)| !self.released.load(Ordering::SeqCst);
        drop(self.changed.wait_while(load, held).unwrap());
    }

    /// The answer when nothing goes wrong.
    fn usual(&self, body: &Value, prompt: &str) -> Value {
        let speech = self.speech.lock().unwrap()(body["seed"].as_u64().unwrap());
        let mut tokens = self.tokenizer.encode_with_specials(&speech);
        let most = body["max_tokens"].as_u64().unwrap() as usize;
        let stops: Vec<String> = serde_json::from_value(body["stop"].clone()).unwrap_or_default();
        let at = |text: &str| stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
        let stopped =
            (1..=tokens.len()).find(|n| at(&self.tokenizer.decode(&tokens[..*n])).is_some());
        let ended = tokens.iter().position(|token| self.tokenizer.is_end(*token));
        let (kept, finish) = match (stopped, ended) {
            (Some(n), _) if n <= most => (n, "stop"),
            (_, Some(n)) if n < most => (n + 1, "stop"),
            _ => (most.min(tokens.len()), "length"),
        };
        tokens.truncate(kept);
        let mut text = self.tokenizer.decode_without_specials(&tokens);
        text.truncate(at(&text).unwrap_or(text.len()));
        let read = self.tokenizer.encode_with_specials(prompt);
        let mut choice = json!({"index": 0, "text": text, "finish_reason": finish});
        self.add_tokens(&mut choice, body, &read, &tokens);
        // llama-cpp-python does not count the end token.
        let counted = tokens.iter().filter(|t| !self.is_python() || !self.tokenizer.is_end(**t));
        let usage = json!({"prompt_tokens": read.len(), "completion_tokens": counted.count()});
        json!({"object": "text_completion", "choices": [choice], "usage": usage})
    }

    fn add_tokens(&self, choice: &mut Value, body: &Value, read: &[u32], tokens: &[u32]) {
        let wanted = body["return_token_ids"] == true;
        if wanted && matches!(self.shape, Shape::Vllm | Shape::ProcessedVllm | Shape::Sglang) {
            choice["token_ids"] = json!(tokens);
            choice["prompt_token_ids"] = json!(read);
        }
        if body.get("prompt_logprobs").is_some() && self.is_vllm() {
            let one = |(at, id): (usize, &u32)| match at {
                0 => Value::Null,
                _ => json!({ id.to_string(): {"logprob": -(at as f32) / 4.0, "rank": 1} }),
            };
            choice["prompt_logprobs"] = read.iter().enumerate().map(one).collect();
        }
        if body.get("logprobs").is_none() || self.is_python() {
            return;
        }
        // These divide by the temperature first; 0 they take for the most likely token at 1.
        let temperature = match (self.shape, body["temperature"].as_f64()) {
            (Shape::Sglang | Shape::ProcessedVllm, Some(scale)) if scale > 0.0 => scale,
            _ => 1.0,
        };
        let scores: Vec<f64> =
            (0..tokens.len()).map(|at| -(at as f64 + 1.0) / 8.0 / temperature).collect();
        let texts = tokens.iter().map(|id| match self.is_vllm() {
            true => format!("token_id:{id}"),
            false => self.tokenizer.decode(&[*id]),
        });
        let texts: Vec<String> = texts.collect();
        choice["logprobs"] = match self.shape {
            Shape::LlamaCpp => {
                let entry = |(id, score)| {
                    let top = json!([{"id": id, "token": "", "logprob": score}]);
                    json!({"id": id, "token": "", "bytes": [], "logprob": score, "top_logprobs": top})
                };
                let entries: Vec<Value> = tokens.iter().zip(&scores).map(entry).collect();
                json!({ "content": entries })
            }
            _ => {
                let top: Vec<Value> =
                    texts.iter().zip(&scores).map(|(text, score)| json!({text: score})).collect();
                json!({"tokens": texts, "token_logprobs": scores, "top_logprobs": top})
            }
        };
    }
}
