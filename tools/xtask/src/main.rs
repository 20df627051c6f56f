//! One verb for each thing a contributor does.

fn main() {
    println!("not built yet");
}
