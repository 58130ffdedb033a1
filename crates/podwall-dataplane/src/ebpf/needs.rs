//! Can this kernel, and this process, have the eBPF data plane?

use std::path::Path;

use nix::sys::utsname::uname;

use crate::Error;

/// NETFILTER programs came with 6.4.
const NEEDED: (u32, u32) = (6, 4);

/// # Errors
/// The first thing that is missing.
pub(crate) fn check() -> Result<(), Error> {
    let name = uname()
        .map_err(|e| Error::Socket { doing: "ask for the kernel's version", source: e.into() })?;
    let release = name.release().to_string_lossy().into_owned();
    if !is_enough(&release) {
        return Err(Error::Kernel {
            release,
            needs: "6.4",
            reason: "netfilter programs in eBPF; the nftables data plane does without",
        });
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Error::Config(
            "the kernel does not describe its types (no /sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF): \
             eBPF cannot read packets' connections here; use the nftables data plane"
                .to_owned(),
        ));
    }
    Ok(())
}

/// A release whose numbers cannot be read is given the benefit of the doubt: loading will tell.
fn is_enough(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= NEEDED,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_since_6_4_will_do() {
        for (release, enough) in [
            ("6.18.44", true),
            ("6.4.0-rc1", true),
            ("6.3.13", false),
            ("5.15.0-91-generic", false),
            ("10.0", true),
            ("odd", true),
        ] {
            assert_eq!(is_enough(release), enough, "{release}");
        }
    }
}
