//! Compiles the eBPF program: C to an object that the library carries.

#![expect(clippy::panic, reason = "a build that cannot go on says why and ends")]

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Newer ones first; the unversioned name is whatever the machine prefers.
const CLANGS: [&str; 9] = [
    "clang", "clang-22", "clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14",
    "clang-13",
];

fn main() {
    let source = "src/ebpf/podwall.bpf.c";
    println!("cargo:rerun-if-changed={source}");
    for header in ["kernel", "packet", "tables", "decide"] {
        println!("cargo:rerun-if-changed=src/ebpf/{header}.h");
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    let wanted = env::var("CLANG").ok();
    let clang = match &wanted {
        Some(clang) => clang.as_str(),
        None => match CLANGS.into_iter().find(|name| runs(name)) {
            Some(clang) => clang,
            None => panic!(
                "the eBPF program needs clang 13 or newer; on Debian: apt-get install clang-14"
            ),
        },
    };
    let object = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("podwall.bpf.o");
    let mut command = Command::new(clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror"]);
    // The headers that belong to the library that will load the program.
    if let Some(include) = env::var_os("DEP_BPF_INCLUDE") {
        command.arg("-I").arg(include);
    }
    // asm/types.h, where the distribution keeps it apart by machine.
    if let (Ok(arch), true) = (env::var("CARGO_CFG_TARGET_ARCH"), cfg!(target_os = "linux")) {
        command.arg(format!("-I/usr/include/{arch}-linux-gnu"));
    }
    command.args(["-c", source, "-o"]).arg(&object);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} ended with {status}"),
        Err(error) => panic!("cannot run {clang}: {error}"),
    }
}

fn runs(clang: &str) -> bool {
    Command::new(clang).arg("--version").output().is_ok_and(|output| output.status.success())
}
