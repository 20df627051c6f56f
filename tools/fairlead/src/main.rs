//! The fairlead command: manages appliances, and runs the dataplane as a Linux process.

fn main() {
    println!("not built yet");
}
