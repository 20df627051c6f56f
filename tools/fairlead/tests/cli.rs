//! The command against a server that answers what the test says, and keeps what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    line: String,
    authorization: Option<String>,
    body: String,
}

/// Answers every request with what `answer` makes of it: status and body.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> (u16, String) + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = requests.clone();
        // The thread ends with the test's process.
        let _ = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                while let Some(request) = read_request(&mut stream) {
                    let (status, body) = answer(&request);
                    kept.lock().unwrap().push(request);
                    let kind = if status < 400 { "application/json" } else { "application/problem+json" };
                    let head = format!(
                        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
                }
            }
        });
        Server { address, requests }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Runs the command against this server.
    fn run(&self, arguments: &[&str]) -> Ran {
        run(&[&["--node", &self.address, "--token", "0123456789abcdef"], arguments].concat(), "")
    }
}

fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        head.iter().find_map(|line| {
            line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
        })
    };
    let length = header("content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let line = head[0].trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request { line, authorization: header("authorization"), body: String::from_utf8(body).unwrap() })
}

/// How the command ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead"));
    let command = command.args(arguments).env_clear().env("XDG_CONFIG_HOME", scratch("config"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads nothing closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

/// A directory of this test process alone.
fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn file(name: &str, text: &str) -> String {
    let path = scratch("files").join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const GOOD: &str =
    "hostname: gw1\ninterfaces:\n  - name: eth0\n    addresses: [10.0.0.1/24]\n    mtu: 9000\n";

#[test]
fn apply_sends_json_and_shows_the_difference() {
    let server = Server::start(|_| {
        let changes = r#"[{"op": "change", "item": "interfaces eth0 mtu", "from": 1500, "to": 9000}]"#;
        (200, format!(r#"{{"generation": 4, "dry_run": false, "changes": {changes}}}"#))
    });
    let ran = server.run(&["apply", "-f", &file("good.yaml", GOOD)]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(ran.out, "~ interfaces eth0 mtu 1500 -> 9000\napplied as generation 4\n");
    let [request] = &server.requests()[..] else { panic!("one request, not {:?}", server.requests()) };
    assert_eq!(request.line, "PUT /v1/config");
    assert_eq!(request.authorization.as_deref(), Some("Bearer 0123456789abcdef"));
    let sent: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(sent["interfaces"][0]["mtu"], 9000);
}

#[test]
fn dry_run_and_confirmation_are_asked_for() {
    let server = Server::start(|_| (200, r#"{"generation": 4, "changes": []}"#.into()));
    let good = file("dry.yaml", GOOD);
    assert_eq!(server.run(&["apply", "-f", &good, "--dry-run"]).out, "nothing would change\n");
    let ran = server.run(&["apply", "-f", &good, "--confirm", "60"]);
    assert!(ran.out.contains("`fairlead confirm`"), "{}", ran.out);
    assert_eq!(server.run(&["confirm"]).code, 0);
    assert_eq!(server.run(&["rollback"]).code, 0);
    let lines: Vec<String> = server.requests().into_iter().map(|request| request.line).collect();
    let expected = [
        "PUT /v1/config?dry_run=true",
        "PUT /v1/config?confirm_seconds=60",
        "POST /v1/config/confirm",
        "POST /v1/config/rollback",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_fault_is_found_before_anything_is_sent() {
    let server = Server::start(|_| (200, "{}".into()));
    let bad = file("bad.yaml", "hostname: gw1\ninterfaces:\n  - name: eth0\n    mtu: 20\n");
    let ran = server.run(&["apply", "-f", &bad]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains(&format!("{bad}:4:5: /interfaces/0/mtu: ")), "{}", ran.err);
    assert!(ran.err.contains("4 |     mtu: 20\n    |     ^"), "{}", ran.err);
    assert_eq!(server.requests(), []);
}

#[test]
fn the_node_s_refusal_points_at_the_line() {
    let server = Server::start(|_| {
        let errors = r#"[{"pointer": "/interfaces/0/name", "message": "this machine has no port eth0"}]"#;
        (422, format!(r#"{{"title": "configuration is not valid", "status": 422, "errors": {errors}}}"#))
    });
    let good = file("refused.yaml", GOOD);
    let ran = server.run(&["apply", "-f", &good]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("configuration is not valid (422)"), "{}", ran.err);
    assert!(
        ran.err.contains(&format!("{good}:3:5: /interfaces/0/name: this machine has no port eth0")),
        "{}",
        ran.err
    );
}

#[test]
fn standard_input_is_a_file_too() {
    let ran =
        run(&["config", "validate", "-f", "-"], "{\"interfaces\": [{\"name\": \"eth0\",\n \"color\": 1}]}");
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("standard input:2:2: /interfaces/0/color: "), "{}", ran.err);
    let ran = run(&["config", "convert", "-f", "-"], "hostname: gw9\n");
    assert_eq!((ran.code, ran.out.as_str()), (0, "{\n  \"hostname\": \"gw9\"\n}\n"));
}

#[test]
fn failures_have_their_exit_codes() {
    let denied = Server::start(|_| (401, r#"{"title": "no token", "status": 401}"#.into()));
    let ran = denied.run(&["status"]);
    assert_eq!(ran.code, 5);
    assert!(ran.err.contains("hint: the token is in"), "{}", ran.err);
    let conflict =
        Server::start(|_| (409, r#"{"title": "nothing waits for confirmation", "status": 409}"#.into()));
    let ran = conflict.run(&["confirm"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("nothing waits for confirmation (409)"), "{}", ran.err);
    // A port that was free a moment ago refuses connections.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert_eq!(run(&["-n", &free, "status"], "").code, 4);
    assert_eq!(run(&["status"], "").code, 1);
    assert_eq!(run(&["no-such-command"], "").code, 2);
    assert_eq!(run(&["config", "validate", "-f", "/no/such/file"], "").code, 1);
}

#[test]
fn routes_are_loaded_in_pieces_with_the_lines_of_the_file() {
    let server = Server::start(|request| {
        // As the node does: bad lines are counted and named by their number within the request.
        let bad: Vec<usize> =
            request.body.lines().enumerate().filter(|(_, l)| l.contains("bad")).map(|(n, _)| n + 1).collect();
        let errors: Vec<_> = bad
            .iter()
            .map(|n| serde_json::json!({"line": n, "pointer": "/prefix", "message": "is no network"}))
            .collect();
        let added = request.body.lines().count() - bad.len();
        let counts = serde_json::json!({"title": "x", "status": 422, "added": added, "removed": 0, "failed": bad.len(), "errors": errors});
        (if bad.is_empty() { 200 } else { 422 }, counts.to_string())
    });
    let line = |n: usize| match n {
        39_999 => "{\"op\":\"add\",\"prefix\":\"bad\"}\n".to_owned(),
        n => format!(
            "{{\"op\":\"add\",\"prefix\":\"10.{}.{}.0/24\",\"via\":[{{\"address\":\"10.0.0.2\"}}]}}\n",
            n >> 8,
            n & 255
        ),
    };
    let routes = file("routes.ndjson", &(0..40_000).map(line).collect::<String>());
    let ran = server.run(&["routes", "load", &routes]);
    assert_eq!(ran.code, 3);
    assert!(ran.out.starts_with("39999 added, 0 removed, 1 failed in "), "{}", ran.out);
    assert!(ran.err.contains(&format!("{routes}:40000: /prefix: is no network")), "{}", ran.err);
    let requests = server.requests();
    assert!(requests.len() >= 2 && requests.iter().all(|request| request.body.ends_with('\n')));
    assert_eq!(requests.iter().map(|request| request.body.lines().count()).sum::<usize>(), 40_000);
}

#[test]
fn one_route_is_added_and_removed() {
    let server = Server::start(|request| {
        let added = u8::from(request.body.contains("\"add\""));
        (200, format!(r#"{{"added": {added}, "removed": {}, "failed": 0, "errors": []}}"#, 1 - added))
    });
    let ran =
        server.run(&["routes", "add", "2001:db8::/32", "--via", "fe80::1%eth0", "--via", "2001:db8:1::2"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "added 2001:db8::/32\n"));
    assert_eq!(server.run(&["routes", "del", "2001:db8::/32"]).out, "removed 2001:db8::/32\n");
    let body: serde_json::Value = serde_json::from_str(&server.requests()[0].body).unwrap();
    assert_eq!(
        body["via"],
        serde_json::json!([{"address": "fe80::1", "interface": "eth0"}, {"address": "2001:db8:1::2"}])
    );
}

#[test]
fn routes_are_shown_page_by_page() {
    let server = Server::start(|request| {
        let first = !request.line.contains("after=");
        let route = |prefix| {
            format!(r#"{{"prefix": "{prefix}", "via": [{{"address": "10.0.0.2", "interface": "eth0"}}]}}"#)
        };
        let (prefix, next) = if first { ("10.0.0.0/8", "\"10.0.0.0/8\"") } else { ("10.1.0.0/16", "null") };
        (200, format!(r#"{{"routes": [{}], "next": {next}}}"#, route(prefix)))
    });
    let ran = server.run(&["get", "routes"]);
    assert_eq!(ran.out, "PREFIX      VIA\n10.0.0.0/8  10.0.0.2 eth0\n10.1.0.0/16  10.0.0.2 eth0\n");
    assert_eq!(server.requests()[1].line, "GET /v1/routes?limit=1000&after=10.0.0.0%2F8");
    let ran = server.run(&["get", "routes", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ran.out).unwrap().as_array().unwrap().len(), 2);
}

#[test]
fn contexts_name_nodes() {
    let server = Server::start(|_| (200, r#"{"version": "9.9.9"}"#.into()));
    let home = scratch("home");
    let fairlead = |arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_fairlead"))
            .args(arguments)
            .env_clear()
            .env("HOME", &home)
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(
        fairlead(&["context", "set", "lab", "--node", &server.address, "--token", "secret-of-the-lab"]),
        ""
    );
    assert!(fairlead(&["version", "-o", "json"]).contains("9.9.9"));
    assert_eq!(server.requests()[0].authorization.as_deref(), Some("Bearer secret-of-the-lab"));
    let listed = fairlead(&["context", "list"]);
    assert!(listed.contains("lab") && !listed.contains("secret"), "{listed}");
    let kept = home.join(".config/fairlead/contexts.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_log_is_read_to_its_end() {
    let server = Server::start(|request| {
        let lines = if request.line.contains("since=0&") { 1000 } else { 2 };
        let lines: Vec<_> = (0..lines)
            .map(|n| serde_json::json!({"sequence": n, "text": format!("[ 0.1] info  x: {n}")}))
            .collect();
        (200, serde_json::json!({"lines": lines, "next": 1000, "uptime_seconds": 9.5}).to_string())
    });
    let ran = server.run(&["logs", "-N", "3"]);
    assert_eq!(ran.out, "[ 0.1] info  x: 999\n[ 0.1] info  x: 0\n[ 0.1] info  x: 1\n");
}

#[test]
fn a_text_keeps_the_lines_that_contain_it() {
    let server = Server::start(|request| match request.line.as_str() {
        "GET /v1/crash" => (200, r#"{"crash": "panic: on purpose\nrip 0x1000\nrsp 0x2000\n"}"#.into()),
        "GET /v1/config" => (200, "{}".into()),
        _ => {
            let lines =
                ["eth0 is up", "eth1 is up", "eth0 is down"].map(|text| serde_json::json!({"text": text}));
            (200, serde_json::json!({"lines": lines, "next": 3, "uptime_seconds": 1.0}).to_string())
        }
    });
    assert_eq!(server.run(&["get", "log", "eth0"]).out, "eth0 is up\neth0 is down\n");
    assert_eq!(server.run(&["logs", "-N1", "is up"]).out, "eth1 is up\n");
    assert_eq!(server.run(&["get", "crash", "0x"]).out, "rip 0x1000\nrsp 0x2000\n");
    assert_eq!(server.run(&["get", "crash", "nothing"]).out, "");
    let ran = server.run(&["get", "config", "eth0"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{}", ran.err);
}

#[test]
fn every_command_gives_other_programs_what_the_node_said() {
    let server = Server::start(|request| {
        let answer = match request.line.split(['?', ' ']).nth(1) {
            Some("/v1/log") => {
                r#"{"lines": [{"sequence": 7, "text": "one"}], "next": 8, "uptime_seconds": 1}"#
            }
            Some("/v1/routes") => r#"{"added": 1, "removed": 0, "failed": 0, "errors": []}"#,
            _ => r#"{"generation": 4}"#,
        };
        (200, answer.into())
    });
    let routes = file("one.ndjson", "{\"op\":\"add\",\"prefix\":\"10.0.0.0/8\",\"blackhole\":true}\n");
    for (command, member, expected) in [
        (&["logs"][..], "sequence", 7),
        (&["get", "log"], "sequence", 7),
        (&["routes", "add", "10.0.0.0/8", "--blackhole"], "added", 1),
        (&["routes", "del", "10.0.0.0/8"], "added", 1),
        (&["routes", "load", &routes], "added", 1),
        (&["confirm"], "generation", 4),
        (&["rollback"], "generation", 4),
        (&["save"], "generation", 4),
        (&["reboot", "--yes"], "generation", 4),
    ] {
        let said = server.run(&[command, &["-o", "json"]].concat());
        let value: serde_json::Value = serde_json::from_str(&said.out).expect(&said.out);
        assert_eq!(value[member], expected, "{command:?}");
        let said = server.run(&[command, &["-o", "yaml"]].concat()).out;
        let value: serde_json::Value = serde_saphyr::from_str(&said).expect(&said);
        let value = value.get(0).unwrap_or(&value);
        assert_eq!(value[member], expected, "{command:?}: {said}");
    }
}

#[test]
fn what_waits_for_confirmation_is_not_saved() {
    let server = Server::start(|_| (200, r#"{"generation": 4, "changes": []}"#.into()));
    let ran = server.run(&["apply", "-f", &file("both.yaml", GOOD), "--confirm", "60", "--save"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert_eq!(server.requests(), []);
}

#[test]
fn the_log_is_followed_over_a_restart_of_the_node() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let page = |texts: &[&str], next: u64, uptime: f64| {
            let lines = texts.iter().map(|text| serde_json::json!({"sequence": 0, "text": text}));
            let lines: Vec<_> = lines.collect();
            let page = serde_json::json!({"lines": lines, "next": next, "uptime_seconds": uptime});
            (200, page.to_string())
        };
        let since = |n: u64| request.line.contains(&format!("since={n}&"));
        match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 if since(0) => page(&["before"], 40, 100.0),
            // It has said more since its restart than before.
            1 if since(40) => page(&["half of it"], 50, 0.4),
            2 if since(0) => page(&["anew", "half of it"], 50, 0.5),
            3 if since(50) => page(&["and on"], 51, 1.0),
            _ => (500, "{}".into()),
        }
    });
    let ran = server.run(&["logs", "-f"]);
    assert_eq!(ran.out, "before\nanew\nhalf of it\nand on\n");
}

#[test]
fn completions_are_written_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell], "");
        assert!(ran.code == 0 && ran.out.contains("fairlead") && ran.out.contains("apply"), "{shell}");
    }
}

/// A node that is a process without ports, with its API on an address of this machine. It ends with the test.
struct Process {
    child: std::process::Child,
    address: String,
}

impl Process {
    fn start(state: &std::path::Path, config: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead"));
        let command = command
            .args(["run", "--api", "127.0.0.1:0", "--config", config, "--state"])
            .arg(state)
            .env_clear();
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address =
            log.find_map(|line| line.unwrap().split_once("http://").map(|(_, address)| address.to_owned()));
        // What the process says later must not fill the pipe.
        let _ = std::thread::spawn(move || log.for_each(drop));
        Process { child, address: address.expect("the API is served") }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(&[&["--node", &self.address, "--token", "0123456789abcdef0123"], arguments].concat(), "")
    }

    /// The command succeeds; what it said.
    fn expect(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.out
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_true_control_plane_is_managed() {
    let state = scratch("state");
    let config = file("process.yaml", "hostname: gw1\napi: {token: 0123456789abcdef0123}\n");
    let node = Process::start(&state, &config);
    assert!(node.expect(&["status"]).contains("gw1"));
    assert_eq!(node.run(&["--token", "wrong-wrong-wrong", "status"]).code, 2, "a flag given twice");
    assert_eq!(run(&["-n", &node.address, "--token", "wrong-wrong-wrong-wrong", "status"], "").code, 5);
    let changed = file("changed.yaml", "hostname: gw2\nlog: {level: debug}\n");
    let dry = node.expect(&["apply", "-f", &changed, "--dry-run"]);
    assert!(dry.contains("~ hostname \"gw1\" -> \"gw2\"") && dry.contains("nothing was changed"), "{dry}");
    assert!(node.expect(&["get", "config"]).contains("hostname: gw1"));
    assert!(node.expect(&["apply", "-f", &changed, "--confirm", "60"]).contains("level"));
    assert_eq!(node.expect(&["rollback"]), "rolled back to the configuration before\n");
    assert!(node.expect(&["get", "config"]).contains("hostname: gw1"));
    let _ = node.expect(&["apply", "-f", &changed]);
    let impossible = file("impossible.yaml", "interfaces:\n  - name: eth0\n");
    let ran = node.run(&["apply", "-f", &impossible]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("impossible.yaml:2:5: /interfaces/0/name: "), "{}", ran.err);
    assert_eq!(node.expect(&["routes", "add", "198.51.100.0/24", "--blackhole"]), "added 198.51.100.0/24\n");
    assert!(node.expect(&["get", "routes"]).contains("198.51.100.0/24"));
    assert!(node.expect(&["get", "routes", "198.51.100.9"]).contains("198.51.100.0/24"));
    let lines = (0..30_000).map(|n| {
        format!("{{\"op\":\"add\",\"prefix\":\"10.{}.{}.0/24\",\"blackhole\":true}}\n", n >> 8, n & 255)
    });
    let many = file("many.ndjson", &lines.collect::<String>());
    assert!(node.expect(&["routes", "load", &many]).starts_with("30000 added"));
    let listed: serde_json::Value =
        serde_json::from_str(&node.expect(&["get", "routes", "-o", "json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 30_001);
    for shown in [
        &["get", "interfaces"][..],
        &["get", "neighbours"],
        &["get", "drops"],
        &["get", "counters"],
        &["logs"],
        &["version"],
    ] {
        let _ = node.expect(shown);
    }
    assert!(node.expect(&["top", "--once", "-i", "0.1"]).contains("WORKER"));
    assert_eq!(node.expect(&["crash"]), "no crash is on record\n");
    assert!(node.expect(&["save"]).contains("store"));
    // What was saved is there after the power failed.
    drop(node);
    let node = Process::start(&state, &config);
    assert!(node.expect(&["get", "config"]).contains("hostname: gw2"));
}
