//! Does the kernel do what the lab asks? Each case makes a lab of its own, as root and as an
//! ordinary user, in a process of its own.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test; clippy's exception for tests does not know one without the usual runner"
)]

mod cluster;
mod engine;
mod exec;
mod holder;
mod network;
mod runner;

fn main() -> std::process::ExitCode {
    runner::run(&[holder::CASES, network::CASES, exec::CASES, engine::CASES])
}
