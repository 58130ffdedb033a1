//! Who follows what a lab denies?

use std::process::ExitCode;

use anyhow::Result;
use podwall_lab::client::Client;
use podwall_lab::rpc::Request;
use podwall_local::Flow;

use crate::flows::{Flows, Printer};

/// Prints denied packets as they come, until enough are there or somebody ends it.
pub(crate) fn flows(client: &mut Client, args: &Flows) -> Result<ExitCode> {
    let (mut printer, mut ended) = (None, Ok(()));
    client.follow(&Request::Flows, |flow: Option<Flow>| {
        let printer = printer.get_or_insert_with(|| Printer::begin(args));
        match flow.map_or(Ok(true), |flow| printer.print(&flow)) {
            Ok(more) => more,
            Err(error) => {
                ended = Err(error);
                false
            }
        }
    })?;
    ended?;
    Ok(ExitCode::SUCCESS)
}
