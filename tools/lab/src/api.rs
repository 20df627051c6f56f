//! A small client of a node's management API.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The longest that one request may take; a bulk load under emulation needs minutes.
const REQUEST_LIMIT: Duration = Duration::from_secs(300);

/// Where a node's API is and the token it wants.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    token: String,
    agent: ureq::Agent,
}

/// A node's answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

impl Api {
    /// A client of the API at `base` (`http://127.0.0.1:8080`).
    pub fn new(base: impl Into<String>, token: impl Into<String>) -> Self {
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(REQUEST_LIMIT))
            .timeout_connect(Some(Duration::from_secs(5)))
            .build();
        Self { base: base.into(), token: token.into(), agent: settings.into() }
    }

    /// Where the API is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same node with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// GET of `path` (`/v1/status`).
    ///
    /// # Errors
    /// No whole answer arrives; a status is no error.
    pub fn get(&self, path: &str) -> Result<Reply> {
        let request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        reply(request.call()).with_context(|| format!("GET {path}"))
    }

    /// GET of a JSON document.
    ///
    /// # Errors
    /// No answer arrives, its status is not 200, or it is not JSON.
    pub fn json(&self, path: &str) -> Result<Value> {
        self.get(path)?.json().with_context(|| format!("GET {path}"))
    }

    /// PUT of a JSON document.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn put(&self, path: &str, document: &Value) -> Result<Reply> {
        let request = self.agent.put(self.url(path)).header("authorization", self.bearer());
        reply(request.content_type("application/json").send(document.to_string()))
            .with_context(|| format!("PUT {path}"))
    }

    /// POST of a body of that content type.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Result<Reply> {
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        reply(request.content_type(content_type).send(body)).with_context(|| format!("POST {path}"))
    }

    /// Waits until the node answers its health check.
    ///
    /// # Errors
    /// There is no answer within `limit`, or none with status 200.
    pub fn wait_until_healthy(&self, limit: Duration) -> Result<()> {
        // QEMU takes a connection before the node does, and waits six seconds before it tries the node again: a new
        // connection is tried at once.
        const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
        let deadline = Instant::now() + limit;
        loop {
            let request = self.agent.get(self.url("/v1/health")).config();
            match reply(request.timeout_global(Some(ATTEMPT_LIMIT)).build().call()) {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Ok(reply) if Instant::now() > deadline => bail!("health check answers {}", reply.status),
                Err(error) if Instant::now() > deadline => return Err(error.context("no health check")),
                Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }
}

impl Reply {
    /// The body of a 200, as JSON.
    ///
    /// # Errors
    /// The status is not 200, or the body is not JSON.
    pub fn json(&self) -> Result<Value> {
        ensure!(self.status == 200, "status {}: {}", self.status, self.body);
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }

    /// This reply if its status is a success (2xx).
    ///
    /// # Errors
    /// Any other status; shows the body.
    pub fn accepted(self) -> Result<Self> {
        ensure!((200..300).contains(&self.status), "status {}: {}", self.status, self.body);
        Ok(self)
    }
}

fn reply(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Reply> {
    let mut response = response?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(256 << 20).read_to_string()?;
    Ok(Reply { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn node_answering(response: &'static str) -> (Api, std::thread::JoinHandle<String>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let api = Api::new(format!("http://{}", listener.local_addr().unwrap()), "secret");
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (api, server)
    }

    #[test]
    fn requests_carry_the_token_and_errors_show_the_body() {
        let problem = "HTTP/1.1 422 x\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{\"a\": \"b\"";
        let (api, server) = node_answering(problem);
        let reply = api.get("/v1/status").unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (422, "{\"a\": \"b\""));
        assert!(reply.accepted().unwrap_err().to_string().contains("{\"a\": \"b\""));
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /v1/status HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer secret\r\n"), "{request}");
    }

    #[test]
    fn a_node_that_is_not_there_is_given_up() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let api = Api::new(format!("http://{free}"), "");
        assert!(api.wait_until_healthy(Duration::from_millis(100)).is_err());
    }
}
