//! Kubernetes objects from YAML files to a node and back, over `fairlead run` with ports in memory.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const TOKEN: &str = "token-of-the-objects-test";
/// The longest that the node may take to come up.
const LIMIT: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"
api: { token: token-of-the-objects-test }
interfaces:
  - { name: eth0, addresses: [10.1.0.1/24] }
  - { name: eth1, addresses: [10.2.0.1/24] }
cluster: { node: node-a }
"#;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec:
  clusterIP: 10.96.0.1
  ports: [{ port: 80, targetPort: 8080 }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: shop, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ port: 8080 }]
endpoints: [{ addresses: [10.1.0.11] }, { addresses: [10.1.0.12] }]
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
";

const POLICY: &str = "
apiVersion: v1
kind: List
items:
  - { apiVersion: v1, kind: Pod, metadata: { name: web, namespace: shop, labels: { app: web } }, status: { podIPs: [{ ip: 10.1.0.11 }] } }
  - { apiVersion: v1, kind: Pod, metadata: { name: client, namespace: shop }, status: { podIPs: [{ ip: 10.2.0.5 }] } }
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: { name: closed, namespace: shop }
    spec:
      podSelector: { matchLabels: { app: web } }
      ingress: []
";

/// A process with its files, both gone in the end.
struct Node {
    child: Child,
    address: String,
    dir: PathBuf,
}

impl Node {
    fn start() -> Node {
        let dir = std::env::temp_dir().join(format!("fairlead-objects-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        let config = dir.join("config.json");
        std::fs::write(&config, format!("{{\"api\": {{\"token\": \"{TOKEN}\"}}}}"))
            .expect("it can be written");
        // The system chooses a free port; nobody else takes it in the moment between.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("localhost has a free port").to_string();
        let mut command = lab::process::tethered(env!("CARGO_BIN_EXE_fairlead"));
        let ports = ["--port", "memory:a", "--port", "memory:a"];
        let _ = command.arg("run").arg("--config").arg(&config).args(["--api", &address]).args(ports);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let node = Node { child, address, dir };
        let began = Instant::now();
        while node.run(&["status"]).0 != 0 {
            assert!(began.elapsed() < LIMIT, "the node does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        node
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, text).expect("it can be written");
        path.to_str().expect("the path is text").into()
    }

    /// Exit code, standard output, standard error.
    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead"));
        let target = ["--node", &self.address, "--token", TOKEN];
        let output = command.args(target).args(words).output().expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    fn expect(&self, words: &[&str]) -> String {
        let (code, out, err) = self.run(words);
        assert_eq!(code, 0, "{words:?}: {err}");
        out
    }

    fn json(&self, words: &[&str]) -> Value {
        let out = self.expect(&[words, &["-o", "json"]].concat());
        serde_json::from_str(&out).expect("it is JSON")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn yaml_reaches_the_node_and_comes_back() {
    let node = Node::start();
    let config = node.file("node.yaml", CONFIG);
    let (service, policy) = (node.file("service.yaml", SERVICE), node.file("policy.yaml", POLICY));
    let dry = node.expect(&["apply", "-f", &service, &policy, "--dry-run"]);
    assert!(dry.contains("+ Service shop/web") && dry.contains("nothing was changed"), "{dry}");
    assert!(dry.contains("skipped 1") && dry.contains("Deployment of apps/v1"), "{dry}");
    let applied = node.expect(&["apply", "-f", &config, &service, &policy]);
    assert!(applied.contains("5 added"), "{applied}");
    assert!(node.expect(&["get", "pods"]).contains("client"));
    assert_eq!(node.json(&["get", "networkpolicies"])["items"][0]["metadata"]["name"], "closed");
    assert_eq!(node.json(&["get", "config"])["cluster"]["node"], "node-a");

    let shown = node.expect(&["lb", "services"]);
    assert!(shown.contains("shop/web") && shown.contains("10.1.0.12:8080"), "{shown}");
    let chosen = node.expect(&["lb", "explain", "tcp", "192.0.2.1:4000", "10.96.0.1:80"]);
    assert!(chosen.contains(":8080") && chosen.contains("shop/web"), "{chosen}");
    let denied =
        node.expect(&["policy", "explain", "--from", "shop/client", "--to", "shop/web", "--port", "80"]);
    assert!(denied.contains("deny") && denied.contains("shop/closed"), "{denied}");
    let matrix = node.json(&["policy", "matrix", "--port", "80"]);
    assert_eq!(
        (&matrix["shop/client"]["shop/web"], &matrix["shop/web"]["shop/client"]),
        (&"deny".into(), &"allow".into())
    );

    let changed = node.file("policy.yaml", &POLICY.replace("ingress: []", "ingress: [{}]"));
    let dry = node.expect(&["apply", "-f", &changed, "--dry-run"]);
    assert!(dry.contains("~ NetworkPolicy shop/closed") && dry.contains("/spec/ingress/0 "), "{dry}");
    let _ = node.expect(&["apply", "-f", &changed]);
    let allowed =
        node.expect(&["policy", "explain", "--from", "shop/client", "--to", "shop/web", "--port", "80"]);
    assert!(allowed.contains("allow"), "{allowed}");
    let deleted = node.expect(&["delete", "-f", &changed]);
    assert!(deleted.contains("3 removed"), "{deleted}");
    assert_eq!(node.json(&["get", "pods"])["items"], Value::Array(Vec::new()));
    refuses(&node, &service);
}

/// What is wrong is named by file, line and field, whoever finds it, and changes nothing.
fn refuses(node: &Node, service: &str) {
    let misspelt = node.file("misspelt.yaml", &POLICY.replace("podSelector", "podSelectr"));
    let (code, _, err) = node.run(&["apply", "-f", &misspelt]);
    assert!(
        code == 3 && err.contains("misspelt.yaml:11:7") && err.contains("/items/2/spec/podSelectr"),
        "{err}"
    );
    // Only the node knows of the other service.
    let second = node.file("second.yaml", &SERVICE.replace("name: web,", "name: web2,"));
    let (code, _, err) = node.run(&["apply", "-f", &second]);
    assert!(code == 3 && err.contains("second.yaml:5:1") && err.contains("10.96.0.1"), "{err}");
    let pruned = node.expect(&["apply", "-f", service, "--prune"]);
    assert!(pruned.contains("0 removed") && pruned.contains("2 unchanged"), "{pruned}");
}
