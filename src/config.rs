//! What `run` was told: flags (and later a `KubeProxyConfiguration`) as one value. Pure.

pub mod kube_proxy;
