//! How do two matrices look side by side?
//!
//! ```text
//!               before the policies               with the policies
//!   packets        80  5000  3306                    80  5000  3306
//!     web           ·     ✓     ✓                     ·     ✓     ✗
//!   engine said    80  5000  3306                    80  5000  3306
//! ```

use std::fmt::Write as _;

use podwall_lab::trial::Finding;

use crate::lab::probe;

/// One column: a destination and a port that it serves.
struct Column {
    head: &'static str,
    pod: &'static str,
    protocol: &'static str,
    port: u16,
}

const COLUMNS: [Column; 5] = [
    Column { head: "web", pod: "default/web-pod", protocol: "TCP", port: 80 },
    Column { head: "app", pod: "default/app-pod", protocol: "TCP", port: 5000 },
    Column { head: "db", pod: "default/db-pod", protocol: "TCP", port: 3306 },
    Column { head: "dns", pod: "kube-system/kube-dns", protocol: "UDP", port: 53 },
    Column { head: "dns", pod: "kube-system/kube-dns", protocol: "TCP", port: 53 },
];

impl Column {
    fn is_of(&self, finding: &Finding) -> bool {
        finding.dst.starts_with(self.pod)
            && (finding.protocol.as_str(), finding.port) == (self.protocol, self.port)
    }
}

/// Both matrices, packets above and the engine's word below. Rows are the sources, as packets and
/// as the picture name them.
pub(super) fn side_by_side(
    sources: &[(&str, &str)],
    before: &[Finding],
    after: &[Finding],
) -> String {
    let head = |cell: &dyn Fn(&Column) -> String| -> String {
        COLUMNS.iter().map(|column| format!("{:>6}", cell(column))).collect()
    };
    let names = head(&|column| column.head.to_owned());
    let ports = head(&|column| {
        let udp = if column.protocol == "UDP" { "u" } else { "" };
        format!("{}{udp}", column.port)
    });
    let mut out = String::new();
    let _ = writeln!(out, "{:<12}{:<34}  with the policies", "", "  before the policies");
    let _ = writeln!(out, "{:<12}{names:<34}{names}", "");
    for (title, engine) in [("packets", false), ("engine said", true)] {
        let _ = writeln!(out, "{title:<12}{ports:<34}{ports}");
        for (source, row) in sources {
            let cells = |findings: &[Finding]| -> String {
                let cell = |column: &Column| {
                    let found = findings.iter().find(|f| f.src == *source && column.is_of(f));
                    let (mark, style) = found.map_or(probe::NOTHING_TRIED, |finding| {
                        let said = Some(finding.engine == "allowed");
                        probe::mark(if engine { said } else { finding.passed })
                    });
                    format!("     {style}{mark}{style:#}")
                };
                COLUMNS.iter().map(cell).collect()
            };
            let _ = writeln!(out, "  {row:<10}{}    {}", cells(before), cells(after));
        }
    }
    out
}
