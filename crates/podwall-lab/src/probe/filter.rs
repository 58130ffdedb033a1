//! Which packets does a watching socket have to see?
//!
//! ```text
//!   IPv4 or IPv6, not a later fragment
//!     TCP with SYN or RST │ UDP that begins as a probe │ SCTP INIT, INIT ACK, ABORT
//!     ICMP echo and reply │ every protocol that has no ports
//! ```
//!
//! A classic BPF program (`Documentation/networking/filter.rst`), so that the traffic of an
//! application costs the prober nothing. It reads from the network header on.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K,
    BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, BPF_RSH, BPF_W, SO_ATTACH_FILTER, SOL_SOCKET, setsockopt,
    sock_filter, sock_fprog, socklen_t,
};

use crate::serve::identity::MAGIC;

/// How much of a packet is kept, in bytes: an IPv6 header, a TCP header and a probe's payload fit.
pub(super) const SNAP: usize = 256;

/// Where a jump of the program leads.
#[derive(Clone, Copy, PartialEq)]
enum To {
    Next,
    Accept,
    Drop,
    V4,
    V6,
    Protocol,
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// One step: either an operation or a test with two ways on.
enum Step {
    Label(To),
    Do(u32, u32),
    Test(u32, u32, To, To),
}

/// The program, in the kernel's form.
fn program() -> Vec<sock_filter> {
    use Step::{Do, Label, Test};
    let (byte_at, half_at) = (BPF_LD | BPF_B | BPF_ABS, BPF_LD | BPF_H | BPF_ABS);
    let byte_behind = BPF_LD | BPF_B | BPF_IND;
    let magic = u32::from_be_bytes([MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3]]);
    let steps = [
        Do(byte_at, 0),
        Do(BPF_ALU | BPF_RSH | BPF_K, 4),
        Test(BPF_JEQ, 4, To::V4, To::Next),
        Test(BPF_JEQ, 6, To::V6, To::Drop),
        Label(To::V4),
        Do(half_at, 6),
        Test(BPF_JSET, 0x1fff, To::Drop, To::Next),
        Do(BPF_LDX | BPF_B | BPF_MSH, 0),
        Do(byte_at, 9),
        Test(BPF_JEQ, 256, To::Protocol, To::Protocol),
        Label(To::V6),
        Do(BPF_LDX | BPF_W | BPF_IMM, 40),
        Do(byte_at, 6),
        Label(To::Protocol),
        Test(BPF_JEQ, 6, To::Tcp, To::Next),
        Test(BPF_JEQ, 17, To::Udp, To::Next),
        Test(BPF_JEQ, 132, To::Sctp, To::Next),
        Test(BPF_JEQ, 1, To::Icmp, To::Next),
        Test(BPF_JEQ, 58, To::Icmp, To::Accept),
        Label(To::Tcp),
        Do(byte_behind, 13),
        // RST 4, SYN 2.
        Do(BPF_ALU | BPF_AND | BPF_K, 6),
        Test(BPF_JEQ, 0, To::Drop, To::Accept),
        Label(To::Udp),
        Do(BPF_LD | BPF_W | BPF_IND, 8),
        Test(BPF_JEQ, magic, To::Accept, To::Drop),
        Label(To::Sctp),
        Do(byte_behind, 12),
        Test(BPF_JEQ, 1, To::Accept, To::Next),
        Test(BPF_JEQ, 2, To::Accept, To::Next),
        Test(BPF_JEQ, 6, To::Accept, To::Drop),
        Label(To::Icmp),
        Do(byte_behind, 0),
        Test(BPF_JEQ, 8, To::Accept, To::Next),
        Test(BPF_JEQ, 0, To::Accept, To::Next),
        Test(BPF_JEQ, 128, To::Accept, To::Next),
        Test(BPF_JEQ, 129, To::Accept, To::Drop),
        Label(To::Accept),
        Do(BPF_RET | BPF_K, SNAP as u32),
        Label(To::Drop),
        Do(BPF_RET | BPF_K, 0),
    ];
    // Labels take no room: where each one leads, counted in instructions.
    let mut places = Vec::new();
    let mut length = 0_usize;
    for step in &steps {
        match step {
            Label(label) => places.push((*label, length)),
            _ => length += 1,
        }
    }
    let mut program = Vec::with_capacity(length);
    for step in steps {
        let here = program.len();
        let way = |to: To| {
            let target = places.iter().find(|(label, _)| *label == to).map_or(here + 1, |p| p.1);
            // All jumps lead forward, over fewer than 256 instructions.
            (target - here - 1) as u8
        };
        match step {
            Label(_) => {}
            Do(code, k) => program.push(sock_filter { code: code as u16, jt: 0, jf: 0, k }),
            Test(code, k, yes, no) => program.push(sock_filter {
                code: (BPF_JMP | code | BPF_K) as u16,
                jt: way(yes),
                jf: way(no),
                k,
            }),
        }
    }
    program
}

/// Puts the program before a socket.
#[expect(unsafe_code, reason = "nix has no SO_ATTACH_FILTER")]
pub(super) fn attach(socket: &impl AsFd) -> io::Result<()> {
    let mut program = program();
    let filter = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let length = size_of::<sock_fprog>() as socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `filter` and the program that it points to live until the call returns; the kernel
    // copies both and changes neither.
    let result = unsafe {
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, std::ptr::from_ref(&filter).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
