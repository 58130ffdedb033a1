//! Any packet to the lab's SCTP servers.
#![no_main]

// The file itself: the module is the lab's own.
#[path = "../../crates/podwall-lab/src/serve/sctp_wire.rs"]
#[expect(dead_code, reason = "the target needs the reader and the writer alone")]
mod sctp_wire;

use sctp_wire::{Init, Packet};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Without a checksum, so that a fuzzer gets past it.
    let mut bytes = bytes.to_vec();
    if let Some(sum) = bytes.get_mut(8..12) {
        sum.fill(0);
    }
    let Some(packet) = Packet::parse(&bytes) else { return };
    let written = packet.to_bytes();
    assert_eq!(Packet::parse(&written).as_ref(), Some(&packet), "it reads as it was written");
    for chunk in &packet.chunks {
        if let Some(init) = Init::parse(chunk.value) {
            assert_ne!(init.tag, 0);
            assert_eq!(Init::parse(&init.to_bytes()).as_ref(), Some(&init));
        }
    }
});
