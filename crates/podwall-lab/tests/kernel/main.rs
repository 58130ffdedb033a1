//! Does the kernel do what the lab asks? Each case makes a lab of its own, as root and as an
//! ordinary user, in a process of its own.

mod cluster;
mod holder;
mod network;
mod runner;

fn main() -> std::process::ExitCode {
    runner::run(&[holder::CASES, network::CASES])
}
