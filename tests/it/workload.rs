//! The manifests that install and remove Beeline, decoded into Kubernetes' own types: an unknown field, or a
//! value of the wrong type, is an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// kubeadm's own objects for kube-proxy.
pub const KUBEADM: &str = "../tests/data/kubeadm/kube-proxy.yaml";

/// The objects of a file of `yaml/`, as they are written.
pub fn objects(file: &str) -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let documents = text.split("\n---\n");
    documents
        .enumerate()
        .map(|(at, document)| {
            serde_saphyr::from_str(document).with_context(|| format!("{file}: document {}", at + 1))
        })
        .collect()
}

/// The object as `T`, which must know all that is written in it.
pub fn strict<T: DeserializeOwned + Serialize>(written: &Value) -> Result<T> {
    let typed: T = serde_path_to_error::deserialize(written.clone())
        .with_context(|| format!("{} {}", written["kind"], written["metadata"]["name"]))?;
    lost(written, &serde_json::to_value(&typed)?, "")?;
    Ok(typed)
}

/// An error for the first value of `written` that `kept` has not.
fn lost(written: &Value, kept: &Value, at: &str) -> Result<()> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            for (key, value) in written {
                let at = format!("{at}.{key}");
                lost(value, kept.get(key).with_context(|| format!("{at}: there is no such field"))?, &at)?;
            }
            Ok(())
        }
        (Value::Array(written), Value::Array(kept)) if written.len() == kept.len() => {
            let pairs = written.iter().zip(kept).enumerate();
            pairs.into_iter().try_for_each(|(n, (written, kept))| lost(written, kept, &format!("{at}[{n}]")))
        }
        _ if written == kept => Ok(()),
        _ => bail!("{at}: {written} is written, and {kept} understood"),
    }
}

/// A DaemonSet's pod, and the ConfigMaps that come with it.
#[derive(Debug)]
pub struct Workload {
    pub daemon_set: DaemonSet,
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Workload {
    /// Reads the one DaemonSet of a file of `yaml/`.
    pub fn of(file: &str) -> Result<Workload> {
        Workload::patched(file, &Value::Null)
    }

    /// kubeadm's DaemonSet, switched as docs/install.md says.
    pub fn switched() -> Result<Workload> {
        let patch = objects("switch.yaml")?;
        ensure!(patch.len() == 1, "one patch");
        Workload::patched(KUBEADM, &patch[0])
    }

    fn patched(file: &str, patch: &Value) -> Result<Workload> {
        let objects = objects(file)?;
        let kind = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
        let sets = kind("DaemonSet");
        ensure!(sets.len() == 1, "{file} has {} DaemonSets", sets.len());
        let mut set = sets[0].clone();
        if !patch.is_null() {
            merge(&mut set, patch, "");
        }
        let mut config_maps = BTreeMap::new();
        for written in kind("ConfigMap") {
            let map: ConfigMap = strict(written)?;
            let name = map.metadata.name.context("a ConfigMap without a name")?;
            config_maps.insert(name, map.data.unwrap_or_default());
        }
        Ok(Workload { daemon_set: strict(&set)?, config_maps })
    }

    /// The pod.
    pub fn pod(&self) -> &PodSpec {
        let template = self.daemon_set.spec.as_ref().map(|spec| &spec.template);
        template.and_then(|template| template.spec.as_ref()).expect("a DaemonSet has a pod")
    }

    /// A container, or one of those that run before the others.
    pub fn container(&self, name: &str) -> &Container {
        let found = self.all_containers().find(|container| container.name == name);
        found.unwrap_or_else(|| panic!("there is no container {name}"))
    }

    /// All containers, those that run first before the others.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.pod().init_containers.iter().flatten().chain(&self.pod().containers)
    }
}

/// A strategic merge, as `kubectl patch` does it: lists of named things are merged by their names, what else
/// is a list is replaced.
fn merge(base: &mut Value, patch: &Value, field: &str) {
    let key = match field {
        "containers" | "initContainers" | "volumes" | "env" => "name",
        "volumeMounts" => "mountPath",
        _ => "",
    };
    match (&mut *base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(base.entry(name).or_insert(Value::Null), value, name);
            }
        }
        (Value::Array(base), Value::Array(patch)) if !key.is_empty() => {
            for item in patch {
                match base.iter_mut().find(|known| known[key] == item[key]) {
                    Some(known) => merge(known, item, ""),
                    None => base.push(item.clone()),
                }
            }
        }
        _ => *base = patch.clone(),
    }
}

/// What a container runs, its variables filled in as kubelet does it. The image's entrypoint is `/beeline`.
pub fn command_line(container: &Container, node: &str) -> Vec<String> {
    let entrypoint = vec!["/beeline".to_owned()];
    let line =
        container.command.as_ref().unwrap_or(&entrypoint).iter().chain(container.args.iter().flatten());
    line.map(|argument| argument.replace("$(NODE_NAME)", node)).collect()
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_found() {
    let written = serde_json::json!({"metadata": {"name": "x"}, "data": {"a": "b"}, "datum": {}});
    let error = strict::<ConfigMap>(&written).unwrap_err();
    assert_eq!(error.to_string(), ".datum: there is no such field");
    let written = serde_json::json!({"metadata": {"name": "x"}, "data": {"a": 1}});
    assert!(format!("{:#}", strict::<ConfigMap>(&written).unwrap_err()).contains("data.a"));
}
