//! How does another process ask the engine about a lab?
//!
//! It gets every object from the worker, reads each as it would read a manifest, and puts the
//! positions back that the objects had in their files. So `podwall can --lab` and `podwall can -f`
//! run the same code on the same types.

use podwall_manifest::{Object, Typed};
use podwall_policy::cluster::Cluster;

use crate::client::{Client, ClientError};
use crate::rpc::{Manifest, Request};
use crate::store::{StoreError, checked};

/// Everything that a lab's worker knows.
pub fn cluster(client: &mut Client) -> Result<Cluster, ClientError> {
    Ok(cluster_of(&objects(client)?))
}

/// Everything that a lab's worker knows, as it is written.
pub fn objects(client: &mut Client) -> Result<Vec<Object>, ClientError> {
    let reply: Vec<Manifest> = client.call(&Request::Cluster)?;
    from_reply(&reply).map_err(|reason| ClientError::Refused {
        message: format!("the lab's worker sent what cannot be read: {reason}"),
    })
}

fn from_reply(reply: &[Manifest]) -> Result<Vec<Object>, StoreError> {
    let read = |manifest: &Manifest| {
        let mut object = checked(&manifest.raw)?;
        object.set_places(&manifest.places);
        Ok(object)
    };
    reply.iter().map(read).collect()
}

/// The cluster of these objects. Pods are objects of their own here: none is made of a workload.
pub fn cluster_of(objects: &[Object]) -> Cluster {
    let mut cluster = Cluster::default();
    for object in objects {
        match &object.typed {
            Typed::Namespace(namespace) => cluster.put_namespace(namespace.clone()),
            Typed::Node(node) => cluster.put_node(node.clone()),
            Typed::Pod(pod) => cluster.put_pod((**pod).clone()),
            Typed::Service(service) => cluster.put_service((**service).clone()),
            Typed::Workload(workload) => cluster.put_workload((**workload).clone()),
            Typed::Policy(policy) => cluster.put_policy((**policy).clone()),
            Typed::Entrance(entrance) => cluster.put_entrance((**entrance).clone()),
        }
    }
    cluster
}
