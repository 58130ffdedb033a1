//! How does another process ask the engine about a lab?
//!
//! It gets every object from the worker, reads each as it would read a manifest, and puts the
//! positions back that the objects had in their files. So `podwall can --lab` and `podwall can -f`
//! run the same code on the same types.

use podwall_manifest::Typed;
use podwall_policy::cluster::Cluster;

use crate::client::{Client, ClientError};
use crate::rpc::{Manifest, Request};
use crate::store::{StoreError, checked};

/// Everything that a lab's worker knows.
pub fn cluster(client: &mut Client) -> Result<Cluster, ClientError> {
    let reply: Vec<Manifest> = client.call(&Request::Cluster)?;
    from_reply(&reply).map_err(|reason| ClientError::Refused {
        message: format!("the lab's worker sent what cannot be read: {reason}"),
    })
}

fn from_reply(reply: &[Manifest]) -> Result<Cluster, StoreError> {
    let mut cluster = Cluster::default();
    for manifest in reply {
        let mut object = checked(&manifest.raw)?;
        object.set_places(&manifest.places);
        match object.typed {
            Typed::Namespace(namespace) => cluster.put_namespace(namespace),
            Typed::Node(node) => cluster.put_node(node),
            Typed::Pod(pod) => cluster.put_pod(*pod),
            Typed::Service(service) => cluster.put_service(*service),
            Typed::Workload(workload) => cluster.put_workload(*workload),
            Typed::Policy(policy) => cluster.put_policy(*policy),
        }
    }
    Ok(cluster)
}
