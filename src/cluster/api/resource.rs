//! What is asked of the API server: paths and selectors, exactly kube-proxy's (SVC-1, SVC-4).

use std::fmt::Write as _;

use crate::cluster::object::Kind;

/// So many objects are in a page, where lists come in pages.
const PAGE: u32 = 500;

/// A kind that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The kind.
    pub kind: Kind,
    path: &'static str,
    selectors: String,
}

impl Resource {
    /// What an agent on this node watches.
    pub fn all(node: &str) -> [Resource; 4] {
        let of = |kind, path, selectors: &[(&str, &str)]| {
            let selectors = selectors.iter().fold(String::new(), |mut all, (name, value)| {
                let _ = write!(all, "{name}={}&", encoded(value));
                all
            });
            Resource { kind, path, selectors }
        };
        let name = format!("metadata.name={node}");
        [
            of(
                Kind::Service,
                "/api/v1/services",
                &[
                    ("fieldSelector", "spec.clusterIP!=None"),
                    ("labelSelector", "!service.kubernetes.io/service-proxy-name"),
                ],
            ),
            of(
                Kind::EndpointSlice,
                "/apis/discovery.k8s.io/v1/endpointslices",
                &[("labelSelector", "!service.kubernetes.io/headless")],
            ),
            of(Kind::Node, "/api/v1/nodes", &[("fieldSelector", &name)]),
            of(Kind::ServiceCidr, "/apis/networking.k8s.io/v1/servicecidrs", &[]),
        ]
    }

    /// Its name in the plural and in lower case, as roles have it.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    /// Whether an older server may lack it: then there are no such objects.
    pub fn is_optional(&self) -> bool {
        self.kind == Kind::ServiceCidr
    }

    /// A list, or a page of it.
    pub fn list(&self, from: &ListFrom<'_>) -> String {
        let mut uri = format!("{}?{}", self.path, self.selectors);
        let _ = match from {
            ListFrom::Cache => write!(uri, "limit={PAGE}&resourceVersion=0"),
            ListFrom::Start => write!(uri, "limit={PAGE}"),
            ListFrom::Page(token) => write!(uri, "limit={PAGE}&continue={}", encoded(token)),
            ListFrom::Whole => Ok(()),
        };
        uri
    }

    /// A watch from a version on.
    pub fn watch(&self, version: &str, seconds: u64) -> String {
        format!("{}&resourceVersion={}", self.any_watch(seconds), encoded(version))
    }

    /// A watch that names all objects first, as fresh as etcd has them.
    pub fn streaming_list(&self, seconds: u64) -> String {
        format!("{}&resourceVersionMatch=NotOlderThan&sendInitialEvents=true", self.any_watch(seconds))
    }

    fn any_watch(&self, seconds: u64) -> String {
        format!(
            "{}?{}allowWatchBookmarks=true&timeoutSeconds={seconds}&watch=true",
            self.path, self.selectors
        )
    }
}

/// Where a list begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListFrom<'a> {
    /// With what the server has in its cache: cheap, and good enough for a first list (CFG-7). Servers
    /// ignore the limit then.
    Cache,
    /// With the first page of what etcd has now.
    Start,
    /// With the page that this token leads to.
    Page(&'a str),
    /// Everything in one answer: after a page token expired.
    Whole,
}

/// A text as part of a query.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut all, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            all.push(char::from(byte));
        } else {
            let _ = write!(all, "%{byte:02X}");
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_that_kube_proxy_makes() {
        // SVC-1, SVC-4; the recorded requests, but for their order of parameters and time-outs.
        let [services, slices, node, cidrs] = Resource::all("kc-n1");
        assert_eq!(
            services.streaming_list(300),
            "/api/v1/services?fieldSelector=spec.clusterIP%21%3DNone&labelSelector=%21service.kubernetes.io%2F\
             service-proxy-name&allowWatchBookmarks=true&timeoutSeconds=300&watch=true&\
             resourceVersionMatch=NotOlderThan&sendInitialEvents=true"
        );
        assert_eq!(
            slices.list(&ListFrom::Page("a=/")),
            "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless&limit=500&\
             continue=a%3D%2F"
        );
        assert_eq!(
            node.list(&ListFrom::Cache),
            "/api/v1/nodes?fieldSelector=metadata.name%3Dkc-n1&limit=500&resourceVersion=0"
        );
        assert_eq!(
            cidrs.watch("12", 301),
            "/apis/networking.k8s.io/v1/servicecidrs?allowWatchBookmarks=true&timeoutSeconds=301&watch=true&\
             resourceVersion=12"
        );
        assert_eq!(services.name(), "services");
    }
}
