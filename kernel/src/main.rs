//! The appliance: the bare-metal platform and the image's main.

fn main() {
    println!("not built yet");
}
