//! `fairlead lb plan` on files.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// A directory that is removed at the end.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Files {
        let path = std::env::temp_dir().join(format!("fairlead-lb-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Files(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fairlead")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn json(arguments: &[&str]) -> Value {
    let (code, out, err) = run(&[&["lb", "plan", "--json"], arguments].concat());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  ports:
  - port: 80
    targetPort: http
";

fn slice(name: &str, endpoints: std::ops::Range<usize>) -> String {
    let endpoints: String =
        endpoints.map(|i| format!("- addresses: [10.1.{}.{}]\n", i / 200, i % 200 + 1)).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}\nports: [{{port: 8080}}]\n\
         endpoints:\n{endpoints}"
    )
}

#[test]
fn shares_are_shown() {
    let files = Files::new("shares");
    let file = files.write("web.yaml", &format!("{SERVICE}---\n{}", slice("a", 0..3)));
    let (code, out, err) = run(&["lb", "plan", "-f", &file]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("default/web port 80 TCP IPv4 Cluster\n  at cluster 10.96.0.10:80\n"), "{out}");
    assert_eq!(
        out.matches("33.333 %").count() + out.matches("33.332 %").count() + out.matches("33.334 %").count(),
        3
    );
    assert!(out.contains("65537 slots, largest share 1.0000 of the mean"), "{out}");
    let plan = json(&["-f", &file]);
    assert_eq!(plan["pools"][0]["backends"][2]["address"], "10.1.0.3:8080");
    let slots: u64 =
        plan["pools"][0]["backends"].as_array().unwrap().iter().map(|b| b["slots"].as_u64().unwrap()).sum();
    assert_eq!(slots, 65_537);
    assert_eq!(plan.get("change"), None);
}

#[test]
fn a_change_says_what_it_moves() {
    let files = Files::new("change");
    let whole = [SERVICE, &slice("a", 0..500), &slice("b", 500..1000)].join("---\n");
    let less = [SERVICE, &slice("a", 0..500), &slice("b", 500..999)].join("---\n");
    let (whole, less) = (files.write("whole.yaml", &whole), files.write("less.yaml", &less));
    let same = json(&["-f", &whole, "--to", &whole]);
    assert_eq!(
        (same["change"]["moved"].as_u64(), same["change"]["survivors"].as_u64()),
        (Some(0), Some(65_537))
    );
    let plan = json(&["-f", &whole, "--to", &less]);
    let change = &plan["pools"][0]["change"];
    let share = change["survivors_moved_share"].as_f64().unwrap();
    assert!(share > 0.001 && share < 0.0075, "{share}");
    let gone = change["slots"].as_u64().unwrap() - change["survivors"].as_u64().unwrap();
    assert!((65..=66).contains(&gone), "{gone}");
    assert_eq!(change["moved"].as_u64().unwrap(), change["survivors_moved"].as_u64().unwrap() + gone);
    assert_eq!(&plan["change"], change);
    let back = json(&["-f", &less, "--to", &whole]);
    assert!(back["change"]["needless"].as_u64() < back["change"]["survivors_moved"].as_u64());
}

#[test]
fn directories_and_lists_are_read_and_pools_come_and_go() {
    let files = Files::new("directory");
    let _ = files.write("1-service.yaml", SERVICE);
    let _ = files.write("2-slice.yml", &slice("a", 0..2));
    let _ = files.write("notes.txt", "not ours: [");
    let directory = files.0.to_str().unwrap();
    let other = Files::new("list");
    let list = other.write(
        "list.json",
        r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "api"}, "spec": {"ports": [{"port": 443}], "ipFamilies": ["IPv6"]}}]}"#,
    );
    let plan = json(&["-f", directory, "--to", &list]);
    let fates: Vec<_> = plan["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["service"].as_str(), p["fate"].as_str()))
        .collect();
    assert_eq!(fates, [(Some("api"), Some("comes")), (Some("web"), Some("goes"))]);
    assert_eq!(plan["pools"][0]["no_table"], "no endpoint is ready");
    assert_eq!(plan["change"]["moved"], 65_537);
}

#[test]
fn faults_have_file_line_and_field() {
    let files = Files::new("faults");
    let file =
        files.write("web.yaml", &format!("{}---\n{SERVICE}", SERVICE.replace("targetPort", "tagretPort")));
    let (code, out, err) = run(&["--color", "never", "lb", "plan", "-f", &file]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(
        err.contains(&format!("{file}:8:5: /spec/ports/0/tagretPort: unknown field `tagretPort`")),
        "{err}"
    );
    let twice = files.write("twice.yaml", &format!("{SERVICE}---\n{SERVICE}"));
    let (code, _, err) = run(&["--color", "never", "lb", "plan", "-f", &twice]);
    assert_eq!(code, 3);
    assert!(err.contains(&format!("{twice}:12:12: /metadata/name: is the name of another service")), "{err}");
}
