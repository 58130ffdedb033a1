//! Does the kernel have what was asked for? Needs root.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc;

use super::{Batch, End, Links, Mac, Route, RouteKind};
use crate::netns::NetNs;

fn namespaces() -> Option<(NetNs, Links, NetNs, Links)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    let (a, b) = (NetNs::unnamed().unwrap(), NetNs::unnamed().unwrap());
    let (la, lb) = (Links::of(&a).unwrap(), Links::of(&b).unwrap());
    Some((a, la, b, lb))
}

fn pair<'a>(ns: &'a NetNs) -> (End<'a>, End<'a>) {
    use std::os::fd::AsFd;
    let mac = Some(Mac([2, 0, 0, 0, 0, 1]));
    (
        End { name: "here", index: 0, mac: None, ns: None },
        End { name: "eth0", index: 2, mac, ns: Some(ns.as_fd()) },
    )
}

#[test]
fn a_pair_spans_two_namespaces_and_carries_addresses_and_routes() {
    let Some((_a, la, b, lb)) = namespaces() else { return };
    let (here, there) = pair(&b);
    la.change(Batch::new().veth(&here, &there).up("here")).unwrap();
    let eth0 = lb.find("eth0").unwrap().unwrap();
    assert_eq!((eth0.index, eth0.up, eth0.mac), (2, false, Some(Mac([2, 0, 0, 0, 0, 1]))));

    let four: IpNet = "10.0.0.7/32".parse().unwrap();
    let six: IpNet = "fd00::7/128".parse().unwrap();
    let hop4: IpAddr = "169.254.1.1".parse().unwrap();
    let hop6: IpAddr = "fe80::1".parse().unwrap();
    let default4: IpNet = "0.0.0.0/0".parse().unwrap();
    let default6: IpNet = "::/0".parse().unwrap();
    let mac = Mac([0xee; 6]);
    let changes = || {
        Batch::new()
            .up("eth0")
            .address(2, four)
            .address(2, six)
            .neighbour(2, hop4, mac)
            .neighbour(2, hop6, mac)
            .route(Route::via(default4, hop4, 2))
            .route(Route::via(default6, hop6, 2))
    };
    lb.change(changes()).unwrap();
    lb.change(changes()).unwrap();
    let addresses = lb.addresses().unwrap();
    assert!(addresses.contains(&(2, four)) && addresses.contains(&(2, six)), "{addresses:?}");
    let routes = lb.routes().unwrap();
    assert!(routes.contains(&(default4, Some(hop4), Some(2))), "{routes:?}");
    assert!(routes.contains(&(default6, Some(hop6), Some(2))), "{routes:?}");

    la.change(Batch::new().delete_link("here").delete_link("here")).unwrap();
    assert_eq!(lb.find("eth0").unwrap(), None);
}

#[test]
fn the_first_failure_of_a_batch_is_told_in_words_and_the_rest_is_done() {
    let Some((_a, la, b, lb)) = namespaces() else { return };
    let (here, there) = pair(&b);
    let error = la
        .change(
            Batch::new()
                .up("nothing")
                .veth(&here, &there)
                .address(99, "10.0.0.1/8".parse().unwrap()),
        )
        .unwrap_err();
    assert!(
        error.to_string().starts_with("cannot switch on the interface nothing: No such device"),
        "{error}"
    );
    assert!(lb.find("eth0").unwrap().is_some());
    let again = la.change(Batch::new().veth(&here, &there)).unwrap_err();
    assert_eq!(again.errno(), Some(libc::EEXIST));
}

#[test]
fn a_batch_longer_than_the_socket_holds_is_answered_in_full() {
    let Some((_a, la, b, _lb)) = namespaces() else { return };
    let (here, there) = pair(&b);
    la.change(Batch::new().veth(&here, &there).up("here")).unwrap();
    let dev = la.index("here").unwrap();
    let batch = (0..2000u32).fold(Batch::new(), |batch, n| {
        let to = IpNet::from(IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
        batch.route(Route::link(to, dev))
    });
    la.change(batch).unwrap();
    assert_eq!(la.routes().unwrap().iter().filter(|(to, ..)| to.addr().is_ipv4()).count(), 2000);
}

#[test]
fn a_bridge_takes_ports_and_an_any_address_route_makes_every_address_local() {
    let Some((a, la, b, _lb)) = namespaces() else { return };
    let (here, there) = pair(&b);
    la.change(Batch::new().bridge("br0", Mac([2; 6])).bridge("br0", Mac([2; 6]))).unwrap();
    let bridge = la.index("br0").unwrap();
    let batch = Batch::new().veth(&here, &there).port("here", bridge).hairpin("here");
    la.change(batch.up("here").up("br0")).unwrap();
    assert_eq!(la.find("here").unwrap().unwrap().master, Some(bridge));

    let any =
        Route { kind: RouteKind::Local, ..Route::link("0.0.0.0/0".parse::<IpNet>().unwrap(), 1) };
    la.change(Batch::new().route(any)).unwrap();
    a.within(|| std::net::UdpSocket::bind("203.0.113.7:53")).unwrap().unwrap();
}
