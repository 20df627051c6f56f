//! What came of one step, and the summary of all.

use std::fmt::Write;
use std::time::Duration;

/// What came of one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Tests or checks that passed.
    pub passed: usize,
    /// Names of those that failed.
    pub failed: Vec<String>,
    /// Those that were not run, each with its reason.
    pub not_run: Vec<String>,
    /// Figures that tests measured, to be shown.
    pub measured: Vec<String>,
    /// What a person needs who looks into the failure.
    pub details: String,
}

impl Outcome {
    /// One check that passed.
    pub fn pass() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One check that failed.
    pub fn fail(name: &str, details: impl Into<String>) -> Self {
        Self { failed: vec![name.to_owned()], details: details.into(), ..Self::default() }
    }

    /// What a run of `cargo test` printed, whose exit status said `succeeded`.
    pub fn of_cargo_test(output: &str, succeeded: bool) -> Self {
        let mut outcome = Self::default();
        for line in output.lines() {
            if let Some(measured) = line.strip_prefix("measured ") {
                outcome.measured.push(measured.to_owned());
            } else if let Some(result) = line.strip_prefix("test result: ") {
                outcome.passed += number_before(result, " passed");
            } else if let Some((name, result)) = test_line(line) {
                match result {
                    "FAILED" => outcome.failed.push(name.to_owned()),
                    ignored if ignored.starts_with("ignored") => {
                        let reason = ignored.strip_prefix("ignored, ").unwrap_or("ignored");
                        outcome.not_run.push(format!("{name} ({reason})"));
                    }
                    _ => (),
                }
            }
        }
        if !succeeded && outcome.failed.is_empty() {
            outcome.failed.push("did not build, or ended before its tests did".into());
        }
        if outcome.failed.is_empty() && outcome.passed == 0 {
            outcome.failed.push("no test was run".into());
        }
        if !outcome.failed.is_empty() {
            outcome.details = failure_details(output);
        }
        outcome
    }

    /// Shows the outcome of a step that was run alone; whether all passed.
    pub fn print(&self) -> bool {
        for note in &self.not_run {
            println!("not run: {note}");
        }
        if !self.failed.is_empty() {
            println!("{}\nfailed: {}", self.details, self.failed.join(", "));
        }
        self.failed.is_empty()
    }
}

/// `test NAME ... RESULT` with the name and the result.
fn test_line(line: &str) -> Option<(&str, &str)> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    Some((name.trim(), result.trim()))
}

fn number_before(text: &str, word: &str) -> usize {
    let before = text.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The parts that test harnesses and compilers write about failures; the end of the output if there are none.
fn failure_details(output: &str) -> String {
    let mut details = String::new();
    let mut within = false;
    for line in output.lines() {
        if line == "failures:" || line.starts_with("error") {
            within = true;
        }
        if line.starts_with("test result: ") || line.starts_with("     Running") {
            within = false;
        }
        if within {
            let _ = writeln!(details, "{line}");
        }
    }
    if details.is_empty() { last_lines(output, 40) } else { last_lines(&details, 300) }
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The closing report: failures first, then figures, what was not run, the time of each step, and the count.
pub fn summary(steps: &[(&str, Outcome, Duration)]) -> String {
    let mut text = String::new();
    for (name, outcome, _) in steps.iter().filter(|(_, outcome, _)| !outcome.failed.is_empty()) {
        let _ = writeln!(text, "\nFAILED {name}: {}\n{}", outcome.failed.join(", "), outcome.details);
    }
    list(&mut text, "Measured", steps.iter().flat_map(|(_, outcome, _)| &outcome.measured));
    list(&mut text, "Not run", steps.iter().flat_map(|(_, outcome, _)| &outcome.not_run));
    let _ = writeln!(text, "\nStep                 passed  failed  not run    time");
    let mut in_order: Vec<_> = steps.iter().collect();
    in_order.sort_by_key(|(_, outcome, _)| outcome.failed.is_empty());
    for (name, outcome, time) in in_order {
        let (failed, not_run) = (outcome.failed.len(), outcome.not_run.len());
        let seconds = time.as_secs_f32();
        let _ = writeln!(text, "{name:<20} {:>6} {failed:>7} {not_run:>8} {seconds:>6.1} s", outcome.passed);
    }
    let total =
        |count: fn(&Outcome) -> usize| steps.iter().map(|(_, outcome, _)| count(outcome)).sum::<usize>();
    let (passed, failed) = (total(|outcome| outcome.passed), total(|outcome| outcome.failed.len()));
    let _ = write!(text, "\n{passed} passed, {failed} failed");
    match total(|outcome| outcome.not_run.len()) {
        0 => text.push('\n'),
        skipped => {
            let _ = writeln!(text, ", {skipped} skipped");
        }
    }
    text
}

fn list<'a>(text: &mut String, title: &str, mut lines: impl Iterator<Item = &'a String>) {
    if let Some(first) = lines.next() {
        let _ = writeln!(text, "\n{title}\n  {first}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/fib-1)
test table::tests::inserts ... ok
test table::tests::removes ... FAILED
measured boot_stages: 41 ms to the first packet
test forwards_over_tap ... ignored, needs root

failures:

---- table::tests::removes stdout ----
assertion failed

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
   Doc-tests fib
test fib/src/lib.rs - Fib (line 3) ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn cargo_test_output_is_counted_and_its_failures_kept() {
        let outcome = Outcome::of_cargo_test(OUTPUT, false);
        assert_eq!(outcome.passed, 2);
        assert_eq!(outcome.failed, ["table::tests::removes"]);
        assert_eq!(outcome.not_run, ["forwards_over_tap (needs root)"]);
        assert_eq!(outcome.measured, ["boot_stages: 41 ms to the first packet"]);
        assert!(outcome.details.contains("assertion failed") && !outcome.details.contains("Doc-tests"));
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        let outcome = Outcome::of_cargo_test("   Compiling x\nerror[E0001]: wrong\n  --> here\n", false);
        assert_eq!(outcome.failed.len(), 1);
        assert!(outcome.details.contains("E0001"));
    }

    #[test]
    fn a_run_of_no_test_is_a_failure() {
        let none =
            "test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 9 filtered out; finished in 0.00s\n";
        for output in ["", none] {
            assert_eq!(Outcome::of_cargo_test(output, true).failed, ["no test was run"], "{output:?}");
        }
    }

    #[test]
    fn the_summary_puts_failures_first_and_ends_with_the_count() {
        let steps = [
            ("format", Outcome::pass(), Duration::from_millis(1250)),
            ("unit tests", Outcome::of_cargo_test(OUTPUT, false), Duration::from_secs(60)),
        ];
        let text = summary(&steps);
        assert!(text.trim_start().starts_with("FAILED unit tests: table::tests::removes"), "{text}");
        assert!(text.find("unit tests  ") < text.find("format  "), "{text}");
        assert!(text.ends_with("\n3 passed, 1 failed, 1 skipped\n"), "{text}");
        let good = summary(&steps[..1]);
        assert!(good.ends_with("\n1 passed, 0 failed\n"), "{good}");
    }
}
