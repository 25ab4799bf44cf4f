//! Compiles the BPF programs, joins them to one object, and writes down what the agent must know of it:
//! the skeleton (`beeline.skel.rs`) and the layout of each group of maps (`layout.rs`).

#![allow(unsafe_code, reason = "libbpf-rs does not wrap the BTF ids of a map that is not loaded")]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::btf::types::{Array, Composite, DataSec, Int, MemberAttr, Ptr, Var};
use libbpf_rs::btf::{Btf, BtfKind, BtfType, HasSize, ReferencesType, TypeId};
use libbpf_rs::{Linker, ObjectBuilder, OpenMap};

/// The groups of maps, each with a pin folder of its own, and who belongs to it. A map that is
/// missing here fails the build.
const GROUPS: [(&str, &[&str]); 2] = [
    (
        "tables",
        &[
            "bl_frontends",
            "bl_services",
            "bl_slots",
            "bl_backends",
            "bl_endpoints",
            "bl_names",
            "bl_prefixes",
            "bl_netns",
            "bl_agent",
            "bl_sieve",
        ],
    ),
    ("flow", &["bl_flows_near", "bl_flows", "bl_flows_more", "bl_affinity_in"]),
];

/// Maps of one-shot programs, never pinned.
const PRIVATE: [&str; 1] = ["bl_aid"];

fn main() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is set by cargo")?);
    for path in ["bpf", "tests/bpf", "vmlinux", "build.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    let headers = write_libbpf_headers(&out)?;
    let sources = sources()?;
    let joined = out.join("beeline.o");
    {
        let mut linker = Linker::new(&joined).context("start libbpf's linker")?;
        for source in &sources {
            let object = compile(source, &headers, &out)?;
            linker.add_file(&object).with_context(|| format!("join {}", object.display()))?;
        }
        linker.link().context("join the BPF objects")?;
    }
    let test = compile(Path::new("tests/bpf/lb_test.bpf.c"), &headers, &out)?;
    println!("cargo:rustc-env=BEELINE_LB_TEST={}", test.display());
    SkeletonBuilder::new().obj(&joined).reference_obj(true).generate(out.join("beeline.skel.rs"))?;
    fs::write(out.join("layout.rs"), layout(&joined)?).context("write layout.rs")
}

/// The `bpf/*.bpf.c` files, sorted so that a build is reproducible.
fn sources() -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir("bpf")
        .context("read bpf/")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    found.sort();
    ensure!(!found.is_empty(), "bpf/ holds no .bpf.c file");
    Ok(found)
}

/// The headers of the libbpf that is linked in, so that no libbpf-dev of another version is taken.
fn write_libbpf_headers(out: &Path) -> Result<PathBuf> {
    let root = out.join("include");
    let dir = root.join("bpf");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    for (name, text) in libbpf_sys::API_HEADERS {
        fs::write(dir.join(name), text).with_context(|| format!("write {name}"))?;
    }
    Ok(root)
}

/// Compiles one source for the target's architecture.
fn compile(source: &Path, headers: &Path, out: &Path) -> Result<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is set by cargo")?;
    let define = match arch.as_str() {
        "x86_64" => "-D__TARGET_ARCH_x86",
        "aarch64" => "-D__TARGET_ARCH_arm64",
        other => bail!("Beeline is built for x86_64 and aarch64; vmlinux/{other}/vmlinux.h does not exist"),
    };
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let name =
        source.file_name().context("a source has a name")?.to_string_lossy().replace(".bpf.c", ".bpf.o");
    let object = out.join(name);
    let done = Command::new(&clang)
        .args([
            "-target",
            "bpf",
            "-mcpu=v3",
            "-O2",
            "-g",
            "-Wall",
            "-Werror",
            "-fno-stack-protector",
            "-fno-strict-aliasing",
            define,
        ])
        .args(["-I", "bpf", "-I", &format!("vmlinux/{arch}"), "-I"])
        .arg(headers)
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(&object)
        .output()
        .with_context(|| {
            format!(
                "{clang} cannot be started: install it (Debian: apt-get install clang), or name one in CLANG"
            )
        })?;
    ensure!(
        done.status.success(),
        "{} does not compile:\n{}",
        source.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(object)
}

/// The text of `layout.rs`: one `Group` per group, its layout a hash of the types of its maps.
fn layout(joined: &Path) -> Result<String> {
    let btf = Btf::from_path(joined).context("read the BTF of the joined object")?;
    let object = ObjectBuilder::default().open_file(joined).context("open the joined object")?;
    let maps: Vec<(String, String)> = object
        .maps()
        .map(|map| (map.name().to_string_lossy().into_owned(), map))
        .filter(|(name, _)| name.starts_with("bl_") && !PRIVATE.contains(&name.as_str()))
        .map(|(name, map)| Ok((name, describe_map(&btf, &map)?)))
        .collect::<Result<_>>()?;
    let mut text = String::from("/// The groups of maps, as built.\npub const GROUPS: &[Group] = &[\n");
    for (group, members) in GROUPS {
        let mut whole = String::new();
        for member in members {
            let Some((_, described)) = maps.iter().find(|(name, _)| name == member) else {
                bail!("build.rs names the map {member}, bpf/maps.h does not");
            };
            writeln!(whole, "{described}")?;
        }
        writeln!(
            text,
            "    Group {{ name: {group:?}, layout: \"{:016x}\", maps: &{members:?} }},",
            fnv(&whole)
        )?;
    }
    for (name, _) in &maps {
        let known = GROUPS.iter().any(|(_, members)| members.contains(&name.as_str()));
        ensure!(
            known,
            "the map {name} is in no group of build.rs: add it to one, which decides where it is pinned"
        );
    }
    text.push_str("];\n");
    Ok(text)
}

/// A map as its readers depend on it. `max_entries` is left out: it is set to need.
fn describe_map(btf: &Btf<'_>, map: &OpenMap<'_>) -> Result<String> {
    let name = map.name().to_string_lossy();
    let part =
        |part| describe_type(btf, map_part(btf, &name, part)?).with_context(|| format!("{part} of {name}"));
    Ok(format!(
        "{name} {:?} flags {:#x} key {} {} value {} {}",
        map.map_type(),
        map.map_flags(),
        map.key_size(),
        part("key")?,
        map.value_size(),
        part("value")?,
    ))
}

/// The type of a map's `key` or `value`, from its definition in `.maps`: a variable whose struct holds
/// pointers to both types.
fn map_part(btf: &Btf<'_>, map: &str, part: &str) -> Result<TypeId> {
    let maps: DataSec<'_> = btf.type_by_name(".maps").context("no .maps section")?;
    let variable = maps
        .iter()
        .filter_map(|info| btf.type_by_id::<Var<'_>>(info.ty))
        .find(|variable| variable.name().is_some_and(|name| name == map))
        .context("not in .maps")?;
    let definition = variable.referenced_type().skip_mods_and_typedefs();
    let definition = Composite::try_from(definition).map_err(|_| anyhow!("is no struct"))?;
    let member = definition.iter().find(|member| member.name.is_some_and(|name| name == part));
    let pointer: Ptr<'_> = member.and_then(|member| btf.type_by_id(member.ty)).context("has no __type()")?;
    Ok(pointer.referenced_type_id())
}

/// A type with everything that moves a byte: names, offsets, sizes, all the way down.
fn describe_type(btf: &Btf<'_>, id: TypeId) -> Result<String> {
    let ty: BtfType<'_> = btf.type_by_id(id).context("a type without BTF")?;
    let ty = ty.skip_mods_and_typedefs();
    let name = ty.name().unwrap_or_default().to_string_lossy().into_owned();
    match ty.kind() {
        BtfKind::Int => Ok(format!("int{}", Int::try_from(ty).map_err(|_| anyhow!("int"))?.bits)),
        BtfKind::Enum | BtfKind::Enum64 => Ok(format!("enum {name}")),
        BtfKind::Array => {
            let array = Array::try_from(ty).map_err(|_| anyhow!("array"))?;
            Ok(format!("{}[{}]", describe_type(btf, array.ty())?, array.capacity()))
        }
        BtfKind::Struct | BtfKind::Union => {
            let composite = Composite::try_from(ty).map_err(|_| anyhow!("struct"))?;
            let mut text = format!("{name} {} {{", composite.size());
            for member in composite.iter() {
                let (MemberAttr::Normal { offset } | MemberAttr::BitField { offset, .. }) = member.attr;
                let field = member.name.unwrap_or_default().to_string_lossy();
                write!(text, " {field}@{offset}: {};", describe_type(btf, member.ty)?)?;
            }
            Ok(text + " }")
        }
        other => bail!("a map's type holds a {other:?}, which has no fixed layout"),
    }
}

/// FNV-1a, 64 bits: stable over toolchains, which the hashers of std are not.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
