//! What a source of manifest files promises.

use super::*;
use crate::model::event::Event;

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: ns}}\n\
         spec: {{clusterIP: 172.30.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

fn slice(name: &str, addr: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, namespace: ns, \
         labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
         ports: [{{name: '', port: 8080}}]\nendpoints: [{{addresses: [{addr}]}}]\n"
    )
}

/// Events as short words: `+web:80`, `-web`, `+web-1 slice`.
fn words(changes: &Changes) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Service(service) => format!("+{}:{}", service.name.name, service.ports[0].port),
        Event::ServiceGone(name) => format!("-{}", name.name),
        Event::Slice(slice) => format!("+{}", slice.name.name),
        Event::SliceGone(name) => format!("-{}", name.name),
        other => format!("{other:?}"),
    };
    changes.events.iter().map(word).collect()
}

fn shown(store: &ManifestStore) -> Vec<String> {
    store.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn documents_of_a_file_become_events_and_equal_texts_none() {
    // SYNC-14
    let mut store = ManifestStore::new();
    let text = format!("{}---\n{}", service("web", "80"), slice("web", "10.0.0.1"));
    assert_eq!(words(&store.update("a.yaml", &text)), ["+web:80", "+web-1"]);
    assert_eq!(words(&store.update("a.yaml", &text)), [""; 0]);
    let moved = format!("# a comment\n---\n{}---\n{}", slice("web", "10.0.0.1"), service("web", "80"));
    assert_eq!(words(&store.update("a.yaml", &moved)), [""; 0], "the order of documents means nothing");
    assert_eq!(words(&store.update("a.yaml", &service("web", "81"))), ["+web:81", "-web-1"]);
    assert_eq!(words(&store.remove("a.yaml")), ["-web"]);
    assert_eq!(store.objects(), 0);
}

#[test]
fn metadata_that_no_rule_reads_is_no_change() {
    // SVC-16
    let mut store = ManifestStore::new();
    store.update("a.yaml", &service("web", "80"));
    let noted = service("web", "80")
        .replace("namespace: ns", "namespace: ns, resourceVersion: '7', annotations: {a: b}");
    assert_eq!(words(&store.update("a.yaml", &noted)), [""; 0]);
}

#[test]
fn a_bad_object_names_file_document_and_field_and_its_last_good_version_stays() {
    let mut store = ManifestStore::new();
    let good = format!("{}---\n{}", service("web", "80"), service("api", "90"));
    store.update("dir/a.yaml", &good);
    for (port, says) in [("eighty", "expected i32"), ("70000", "70000 is no port number")] {
        let bad =
            format!("{}---\n{}---\n{}", service("web", "80"), service("api", port), service("new", "1"));
        let got = words(&store.update("dir/a.yaml", &bad));
        assert!(got.is_empty() || got == ["+new:1"], "{got:?}");
        let problems = store.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].document, problems[0].line), (2, Some(5)));
        assert_eq!(problems[0].object.as_deref(), Some("Service ns/api"));
        assert_eq!(problems[0].field, "spec.ports[0].port");
        assert!(problems[0].message.contains(says), "{}", problems[0]);
        assert!(
            shown(&store)[0]
                .starts_with("dir/a.yaml: document 2 (line 5): Service ns/api: spec.ports[0].port: ")
        );
    }
    assert_eq!(words(&store.update("dir/a.yaml", &good)), ["-new"], "what stayed is what is announced");
    assert_eq!(shown(&store), [""; 0]);
}

#[test]
fn an_unparsable_document_keeps_what_it_may_have_named_and_the_others_count() {
    let mut store = ManifestStore::new();
    store.update("a.yaml", &format!("{}---\n{}", service("web", "80"), service("api", "90")));
    let broken = format!("{}---\nkind: Service\nspec: [\nmetadata: x\n", service("web", "81"));
    assert_eq!(words(&store.update("a.yaml", &broken)), ["+web:81"]);
    let problem = &store.problems()[0];
    assert_eq!((problem.document, problem.severity), (2, Severity::Error));
    assert!(problem.line.is_some_and(|line| line > 6), "{problem}");
    // Named again by another document, it changes as ever; and when the text is whole again, it may go.
    let named = format!("kind: [\n---\n{}", service("api", "91"));
    assert_eq!(words(&store.update("a.yaml", &named)), ["+api:91"]);
    assert_eq!(words(&store.update("a.yaml", &service("api", "91"))), ["-web"]);
}

#[test]
fn a_bad_file_takes_nothing_with_it() {
    let mut store = ManifestStore::new();
    store.update("a.yaml", &service("web", "80"));
    assert_eq!(words(&store.update("b.yaml", "\tno: yaml: at: all")), [""; 0]);
    assert_eq!(words(&store.update("c.yaml", &service("api", "90"))), ["+api:90"]);
    assert_eq!(store.problems().len(), 1);
    store.remove("b.yaml");
    assert_eq!(store.problems().len(), 0);
}

#[test]
fn the_first_file_by_name_gives_an_object_and_the_next_takes_over() {
    let mut store = ManifestStore::new();
    assert_eq!(words(&store.update("b.yaml", &service("web", "2"))), ["+web:2"]);
    assert_eq!(words(&store.update("c.yaml", &service("web", "3"))), [""; 0]);
    assert_eq!(words(&store.update("a.yaml", &service("web", "1"))), ["+web:1"]);
    let warned: Vec<_> = store.problems().into_iter().map(|p| (p.file.to_string(), p.severity)).collect();
    assert_eq!(warned, [("b.yaml".into(), Severity::Warning), ("c.yaml".into(), Severity::Warning)]);

    let changes = store.remove("a.yaml");
    assert_eq!(
        (words(&changes).len(), &*changes.reread[0]),
        (0, "b.yaml"),
        "until b is read, nothing changes"
    );
    assert_eq!(words(&store.update("b.yaml", &service("web", "2"))), ["+web:2"]);
    assert_eq!(words(&store.update("c.yaml", &service("web", "4"))), [""; 0], "a shadow may change unseen");
    let changes = store.update("b.yaml", "");
    assert_eq!(&*changes.reread[0], "c.yaml");
    assert_eq!(words(&store.remove("c.yaml")), ["-web"], "the heir is gone too");
    assert_eq!(store.objects(), 0);
}

#[test]
fn an_heir_that_is_bad_keeps_the_object_as_it_was() {
    let mut store = ManifestStore::new();
    store.update("a.yaml", &service("web", "1"));
    store.update("b.yaml", &service("web", "2"));
    assert_eq!(&*store.remove("a.yaml").reread[0], "b.yaml");
    assert_eq!(words(&store.update("b.yaml", &service("web", "x"))), [""; 0]);
    assert_eq!(words(&store.update("b.yaml", &service("web", "1"))), ["+web:1"]);
}

#[test]
fn an_object_given_twice_in_a_file_is_taken_from_the_first_document() {
    let mut store = ManifestStore::new();
    let text = format!("{}---\n{}", service("web", "1"), service("web", "2"));
    assert_eq!(words(&store.update("a.yaml", &text)), ["+web:1"]);
    assert_eq!(store.problems()[0].document, 2);
    assert_eq!(words(&store.update("a.yaml", &service("web", "2"))), ["+web:2"]);
    assert_eq!(store.problems().len(), 0);
}

#[test]
fn lists_of_all_kinds_are_unrolled_and_a_bad_item_is_named() {
    let mut store = ManifestStore::new();
    let item = |name: &str, port: &str| {
        format!(
            r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"clusterIP": "172.30.0.1", "ports": [{{"port": {port}}}]}}}}"#
        )
    };
    let typed = format!(
        r#"{{"apiVersion": "v1", "kind": "ServiceList", "items": [{}, {}]}}"#,
        item("web", "80"),
        item("bad", "\"x\"")
    );
    assert_eq!(words(&store.update("a.json", &typed)), ["+web:80"]);
    let problem = &store.problems()[0];
    assert_eq!(problem.object.as_deref(), Some("Service default/bad"));
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}\n- {{}}\n", item("x", "1"));
    assert_eq!(words(&store.update("b.yaml", &list)), [""; 0]);
    let problem = store.problems().into_iter().find(|p| &*p.file == "b.yaml").unwrap();
    assert_eq!(problem.field, "items[0].kind", "an untyped list's items say what they are");
}

#[test]
fn kinds_that_are_not_read_are_noted_once_and_unknown_fields_ignored() {
    // SYNC-12
    let mut store = ManifestStore::new();
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n";
    let web = service("web", "80").replace("spec: {", "spec: {fromTheFuture: {a: 1}, ");
    let text = format!(
        "{deployment}---\n{deployment}---\n{web}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\n"
    );
    assert_eq!(words(&store.update("a.yaml", &text)), ["+web:80"]);
    let problems = store.problems();
    assert_eq!((problems.len(), problems[0].severity), (1, Severity::Note));
    assert!(problems[0].message.contains("apps/v1 Deployment"));
}

#[test]
fn a_slice_that_leaves_its_service_goes() {
    // EP-1
    let mut store = ManifestStore::new();
    store.update("a.yaml", &slice("web", "10.0.0.1"));
    let orphan = slice("web", "10.0.0.1").replace("kubernetes.io/service-name", "other");
    assert_eq!(words(&store.update("a.yaml", &orphan)), ["-web-1"]);
    assert_eq!(store.problems()[0].severity, Severity::Warning);
}

#[test]
fn only_manifest_names_are_read() {
    for good in ["a.yaml", "a.yml", "a.json"] {
        assert!(is_manifest(good), "{good}");
    }
    for bad in [".a.yaml", "a.yaml~", "a.txt", "..data", ".a.yaml.swp", "yaml"] {
        assert!(!is_manifest(bad), "{bad}");
    }
}
