//! The node's HTTP API: one request, one answer, and every way it can fail put into words.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use super::context::Target;
use crate::failure::{Failure, Message, Result};

/// A million routes as JSON are below this.
const MAX_ANSWER_BYTES: u64 = 512 << 20;

/// A node that can be asked.
pub struct Node {
    agent: Agent,
    target: Target,
}

/// RFC 9457 problem document, with the fields it is about.
#[derive(Debug, Default, Deserialize)]
pub struct Problem {
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Debug, Deserialize)]
pub struct FieldError {
    /// RFC 6901 pointer into the document sent.
    #[serde(default)]
    pub pointer: String,
    /// What is wrong with it.
    #[serde(alias = "detail")]
    pub message: String,
}

/// A refusal by the node.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub problem: Problem,
    /// The whole problem document, whose further members only some requests know.
    pub document: Value,
}

impl Node {
    /// A node at an address. Nothing is sent yet.
    pub fn new(target: Target) -> Node {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .user_agent(concat!("fairlead/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .timeout_per_write(Some(Duration::from_secs(30)))
            .build()
            .new_agent();
        Node { agent, target }
    }

    /// The address, for messages.
    pub fn name(&self) -> &str {
        self.target.node.trim_start_matches("http://")
    }

    /// GET, failing on every refusal.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.request("GET", path, None)
    }

    /// POST without a body, failing on every refusal.
    pub fn post(&self, path: &str) -> Result<Value> {
        self.request("POST", path, Some(("application/json", b"")))
    }

    /// Any request, failing on every refusal.
    pub fn request(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Result<Value> {
        self.ask(method, path, body)?.map_err(|refusal| refusal.failure(self, &format!("{method} {path}")))
    }

    /// Any request; a refusal is left to the caller, who knows what was sent.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, &[u8])>,
    ) -> Result<std::result::Result<Value, Refusal>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.target.node));
        request = request.header("accept", "application/json, application/problem+json");
        if let Some(token) = &self.target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = match body {
            Some((content_type, bytes)) => {
                let request = request
                    .header("content-type", content_type)
                    .body(bytes)
                    .map_err(|e| self.unsendable(&e))?;
                self.agent.run(request)
            }
            None => self.agent.run(request.body(()).map_err(|e| self.unsendable(&e))?),
        };
        self.read(answer.map_err(|error| self.unreachable(&error))?)
    }

    fn read(&self, mut response: Response<Body>) -> Result<std::result::Result<Value, Refusal>> {
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let text = text.map_err(|error| self.unreachable(&error))?;
        if (200..300).contains(&status) {
            // Not everything is JSON: /metrics and empty answers are text.
            let body = serde_json::from_slice(&text)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&text).into_owned()));
            return Ok(Ok(body));
        }
        let document: Value = serde_json::from_slice(&text).unwrap_or_default();
        let problem = Problem::deserialize(&document).unwrap_or_else(|_| Problem {
            detail: String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned(),
            ..Problem::default()
        });
        if status == 401 || status == 403 {
            let given = if self.target.token.is_some() { "refuses the token" } else { "wants a token" };
            return Err(Failure::Unauthorized(Message::new(format!("{} {given}", self.name())).hint(
                "the token is in the node's configuration (api.token) or on its command line (token=); a node without one prints on its console which it made",
            )));
        }
        Ok(Err(Refusal { status, problem, document }))
    }

    fn unsendable(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::Operation(
            Message::new(format!("cannot make a request to {}: {error}", self.name()))
                .hint("check --node and --token for stray characters"),
        )
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let reason = match error {
            ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
            ureq::Error::HostNotFound => "the name is not known".into(),
            other => other.to_string(),
        };
        Failure::Unreachable(
            Message::new(format!("cannot talk to {}: {reason}", self.name())).hint(
                "is the node up, is this its management address, and does its API listen on that port?",
            ),
        )
    }
}

impl Refusal {
    /// The refusal as a failure that does not know the document sent.
    pub fn failure(&self, node: &Node, what: &str) -> Failure {
        let details = self.problem.errors.iter().map(|e| format!("{}: {}", e.pointer, e.message)).collect();
        Failure::Operation(
            Message::new(format!("{} refuses {what}: {}", node.name(), self.reason())).details(details),
        )
    }

    /// What the node said, in one line.
    pub fn reason(&self) -> String {
        let Problem { title, detail, .. } = &self.problem;
        match (title.as_str(), detail.as_str()) {
            ("", "") => format!("HTTP status {}", self.status),
            ("", text) | (text, "") => format!("{text} ({})", self.status),
            (title, detail) if title == detail => format!("{title} ({})", self.status),
            (title, detail) => format!("{title}: {detail} ({})", self.status),
        }
    }
}
