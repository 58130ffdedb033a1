//! Which addresses does a CIDR text stand for, and is it written as it should be?
//!
//! ```text
//!   10.0.0.0/8            fine
//!   10.1.0.0/8            taken as 10.0.0.0/8, warned of: host bits
//!   010.0.0.0/8           taken as 10.0.0.0/8 (decimal), warned of: leading zero
//!   ::ffff:10.0.0.0/104   taken as 10.0.0.0/8, warned of: IPv4-mapped
//!   10.0.0.0, 10.0.0/8    refused
//! ```
//!
//! Sources: `ValidateIPBlock` in `pkg/apis/networking/validation/validation.go`, `ParseCIDRSloppy`
//! of `k8s.io/utils/net`, `GetWarningsForCIDR` in `k8s.io/apimachinery/pkg/util/validation/ip.go`.
//! API servers with the feature gate `StrictIPCIDRValidation` (KEP-4858) refuse what is warned of
//! here in new objects; stored ones may carry it, so it is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A CIDR that was understood, with what is odd about its writing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    /// Without host bits.
    pub(crate) net: IpNet,
    pub(crate) oddities: Vec<String>,
}

/// What is odd about the writing of a CIDR that is accepted: what, and what to write instead.
pub fn cidr_oddities(text: &str) -> Vec<(String, String)> {
    let split = |it: String| match it.split_once(": ") {
        Some((what, instead)) => (what.to_owned(), instead.to_owned()),
        None => (it, String::new()),
    };
    parse(text).map(|cidr| cidr.oddities.into_iter().map(split).collect()).unwrap_or_default()
}

/// Reads a CIDR as the API server does; `Err` says what is wrong.
pub(crate) fn parse(text: &str) -> Result<Cidr, String> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(match address(text) {
            Some(address) => {
                let bits = if address.ip.is_ipv4() { 32 } else { 128 };
                format!("has no prefix length: for one address write {text}/{bits}")
            }
            None => "must be an address with a prefix length, like 10.9.8.0/24".into(),
        });
    };
    let Some(Address { ip, leading_zero }) = self::address(address) else {
        return Err(wrong_address(address));
    };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = length.parse::<u8>().ok().filter(|p| digits && *p <= most) else {
        return Err(format!("must have a prefix length from 0 to {most} after the `/`"));
    };
    let zero_length = length.len() > 1 && length.starts_with('0');
    // Go keeps an IPv4-mapped address in four bytes and takes the mask's last four.
    let (net_ip, net_prefix, mapped) = match ip {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) if prefix >= 96 => (IpAddr::V4(v4), prefix - 96, true),
            Some(_) => (ip, prefix, true),
            None => (ip, prefix, false),
        },
        IpAddr::V4(_) => (ip, prefix, false),
    };
    let Ok(full) = IpNet::new(net_ip, net_prefix) else {
        return Err(format!("must have a prefix length from 0 to {most} after the `/`"));
    };
    let net = full.trunc();
    let mut oddities = Vec::new();
    if net != full {
        let single = IpNet::from(net_ip);
        oddities.push(format!(
            "`{text}` has bits set after the prefix length: write {net}, or {single} for the one \
             address"
        ));
    }
    if leading_zero || zero_length {
        oddities.push(format!("`{text}` has a number with a leading zero: write {net}"));
    }
    if mapped {
        oddities.push(format!("`{text}` is an IPv4-mapped IPv6 address: write {net}"));
    }
    Ok(Cidr { net, oddities })
}

/// An address as Go's old parser took it: leading zeros are decimal.
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    leading_zero: bool,
}

/// Reads an address with `ParseIPSloppy`.
pub(crate) fn address(text: &str) -> Option<Address> {
    if let Ok(ip) = text.parse() {
        return Some(Address { ip, leading_zero: false });
    }
    let (head, quad) = match text.rfind(':') {
        Some(colon) => text.split_at(colon + 1),
        None => ("", text),
    };
    let parts: Vec<&str> = quad.split('.').collect();
    let number = |part: &&str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let trimmed = part.trim_start_matches('0');
        let value = if trimmed.is_empty() { Some(0) } else { trimmed.parse::<u8>().ok() };
        value.filter(|_| digits)
    };
    let numbers: Vec<u8> = parts.iter().map(number).collect::<Option<_>>()?;
    let v4 = Ipv4Addr::from(<[u8; 4]>::try_from(numbers).ok()?);
    let ip = if head.is_empty() {
        IpAddr::V4(v4)
    } else {
        IpAddr::V6(format!("{head}{v4}").parse::<Ipv6Addr>().ok()?)
    };
    Some(Address { ip, leading_zero: true })
}

fn wrong_address(text: &str) -> String {
    let parts: Vec<&str> = text.split('.').collect();
    let numeric = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
    if !text.contains(':') && parts.iter().all(numeric) {
        if parts.len() != 4 {
            return format!("must have four numbers before the `/`, not {}", parts.len());
        }
        if let Some(part) = parts.iter().find(|p| p.parse::<u8>().is_err()) {
            return format!("has {part} in its address, where 255 is the most");
        }
    }
    "must be an address with a prefix length, like 10.9.8.0/24 or 2001:db8::/64".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_is_read_as_the_api_server_reads_it() {
        for (text, net, odd) in [
            ("10.0.0.0/8", "10.0.0.0/8", 0),
            ("0.0.0.0/0", "0.0.0.0/0", 0),
            ("2001:db8::/32", "2001:db8::/32", 0),
            ("2001:DB8:0::/32", "2001:db8::/32", 0),
            ("10.1.2.3/8", "10.0.0.0/8", 1),
            ("10.010.0.0/16", "10.10.0.0/16", 1),
            ("10.0.0.0/08", "10.0.0.0/8", 1),
            ("010.1.0.0/8", "10.0.0.0/8", 2),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", 1),
            ("::ffff:010.0.0.0/104", "10.0.0.0/8", 2),
            ("2001:db8::1/32", "2001:db8::/32", 1),
        ] {
            let cidr = parse(text).unwrap();
            assert_eq!(cidr.net.to_string(), net, "{text}");
            assert_eq!(cidr.oddities.len(), odd, "{text}: {:?}", cidr.oddities);
        }
    }

    #[test]
    fn what_is_no_cidr_is_said_why() {
        for (text, why) in [
            ("10.0.0.1", "has no prefix length: for one address write 10.0.0.1/32"),
            ("::1", "has no prefix length: for one address write ::1/128"),
            ("10.0.0/8", "must have four numbers before the `/`, not 3"),
            ("10.0.0.256/8", "has 256 in its address, where 255 is the most"),
            ("10.0.0.0/33", "must have a prefix length from 0 to 32 after the `/`"),
            ("10.0.0.0/", "must have a prefix length from 0 to 32 after the `/`"),
            ("10.0.0.0/-1", "must have a prefix length from 0 to 32 after the `/`"),
            ("::/129", "must have a prefix length from 0 to 128 after the `/`"),
            ("example.com", "must be an address with a prefix length, like 10.9.8.0/24"),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text}");
        }
        for text in ["", "/", "a/8", "10.0.0.0/8/8", " 10.0.0.0/8", "fe80::1%eth0/64", "1.2.3.4:/8"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
