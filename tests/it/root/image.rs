//! The image that `scripts/image` makes: what is in it, and that it can be made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// An image of the binary under test, unpacked.
pub struct Image {
    dir: tempfile::TempDir,
    /// What the script said on stdout.
    pub said: String,
    /// Entrypoint, variables, labels.
    pub config: Value,
}

impl Image {
    /// Runs scripts/image and unpacks what it wrote.
    pub fn build() -> Result<Image> {
        let dir = tempfile::tempdir()?;
        let archive = dir.path().join("image.tar");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/image");
        let mut command = Command::new(script);
        command.args(["--binary", env!("CARGO_BIN_EXE_beeline"), "--output"]).arg(&archive);
        let done = command.stdin(Stdio::null()).output().context("run scripts/image")?;
        ensure!(done.status.success(), "scripts/image: {}", String::from_utf8_lossy(&done.stderr));
        let mut image = Image { said: String::from_utf8(done.stdout)?, config: Value::Null, dir };
        image.unpack(&archive)?;
        Ok(image)
    }

    /// The files of the image.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    fn unpack(&mut self, archive: &Path) -> Result<()> {
        let oci = self.dir.path().join("oci");
        untar(archive, &oci)?;
        let read = |file: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(file)?)?) };
        let blob = |of: &Value| -> Result<PathBuf> {
            let digest = of["digest"].as_str().context("a descriptor without a digest")?;
            Ok(oci.join("blobs").join(digest.replace(':', "/")))
        };
        let manifest = read(blob(&read(oci.join("index.json"))?["manifests"][0])?)?;
        self.config = read(blob(&manifest["config"])?)?["config"].take();
        let layers = manifest["layers"].as_array().context("an image without layers")?;
        layers.iter().try_for_each(|layer| untar(&blob(layer)?, &self.files()))
    }
}

fn untar(archive: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(to).status()?;
    ensure!(done.success(), "tar cannot unpack {}", archive.display());
    Ok(())
}

/// The paths below a folder, relative to it, and where links lead.
fn listing(root: &Path, below: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(listing(root, &format!("{path}/"))?);
        } else if kind.is_symlink() {
            found.push(format!("{path} → {}", fs::read_link(entry.path())?.display()));
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn the_image_holds_the_binary_and_licences_and_can_be_made_again() -> Result<()> {
    let image = Image::build()?;
    let last = image.said.lines().last().context("it said nothing")?;
    let name = format!("image: localhost/beeline:{} sha256:", env!("CARGO_PKG_VERSION"));
    assert!(last.starts_with(&name), "{last}");
    let size = last.strip_suffix(" MiB").and_then(|line| line.rsplit(' ').next());
    let size: f64 = size.context("no size")?.parse()?;
    assert!(size > 1.0 && size < 10.0, "{last}");
    assert!(image.said.starts_with("unpacked: "), "{}", image.said);

    let expected = [
        "beeline",
        "kube-proxy → beeline",
        "licenses/Apache-2.0.txt",
        "licenses/BSD-2-Clause.txt",
        "licenses/GPL-2.0-only.txt",
        "licenses/LICENSE",
        "licenses/THIRD-PARTY-NOTICES.txt",
        "usr/local/bin/beeline → /beeline",
        "usr/local/bin/kube-proxy → /beeline",
    ];
    assert_eq!(listing(&image.files(), "")?, expected);
    assert_eq!(image.config["Entrypoint"], serde_json::json!(["/beeline"]));
    assert_eq!(image.config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(Image::build()?.said, image.said, "made again it is the same");

    let version = Command::new(image.files().join("kube-proxy")).arg("--version").output()?;
    assert!(version.status.success());
    Ok(())
}

#[test]
fn whatever_is_linked_in_has_its_licence_in_the_image() -> Result<()> {
    let image = Image::build()?;
    let notices = fs::read_to_string(image.files().join("licenses/THIRD-PARTY-NOTICES.txt"))?;
    for part in
        ["libbpf, in libbpf-sys", "elfutils, in libbpf-sys", "zlib, in libbpf-sys", "glibc (", "libgcc ("]
    {
        assert!(notices.contains(&format!("\n{part}")), "{part}");
    }
    assert!(notices.contains("\nthe Rust standard library"));
    let tree = Command::new("cargo")
        .args(["tree", "--locked", "-e", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let tree = String::from_utf8(tree.stdout)?;
    let crates: Vec<_> = tree.lines().filter(|line| !line.starts_with("beeline ")).collect();
    assert!(crates.len() > 50, "{tree}");
    for line in crates {
        let (name, version) = line.split_once(" v").context("a crate has a version")?;
        let who = format!("\n{name} {} (", version.split(' ').next().unwrap_or_default());
        assert!(notices.contains(&who), "{line}");
    }
    Ok(())
}
