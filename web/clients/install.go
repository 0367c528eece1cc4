package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// flinkVersion is the version of Flink whose clients are driven.
const flinkVersion = "1.20.3"

// tools are where the clients are.
type tools struct {
	flink      string // Flink's home: bin, conf, lib; web has its UI
	autoscaler string // directory with the jars of the library and the class Autoscale
	webui      string // directory with pages.mjs and its packages
	chromium   string
}

// install installs what is not there yet. A directory that is complete has a file "ready".
func install(ctx context.Context, o options) (tools, error) {
	t := tools{
		flink: filepath.Join(o.dir, "flink-"+flinkVersion), autoscaler: filepath.Join(o.dir, "autoscaler"), webui: filepath.Join(o.dir, "webui"),
	}
	for _, s := range []struct {
		client, dir string
		do          func(context.Context, options, string) error
	}{{"", t.flink, installFlink}, {"autoscaler", t.autoscaler, installAutoscaler}, {"webui", t.webui, installWebUI}} {
		if s.client != "" && !o.drives(s.client) {
			continue
		}
		if err := once(ctx, o, s.dir, s.do); err != nil {
			return t, err
		}
	}
	if !o.drives("webui") {
		return t, nil
	}
	var err error
	t.chromium, err = findChromium(ctx, o.dir)
	return t, err
}

func (o options) drives(client string) bool {
	for _, name := range o.only {
		if name == client {
			return true
		}
	}
	return len(o.only) == 0
}

// once makes a directory, unless it is there and made of the same files of this repository.
func once(ctx context.Context, o options, dir string, do func(context.Context, options, string) error) error {
	sources, err := digest(filepath.Join(o.source, strings.TrimSuffix(filepath.Base(dir), "-"+flinkVersion)))
	if err != nil {
		return err
	}
	ready := filepath.Join(dir, "ready")
	if made, err := os.ReadFile(ready); err == nil && string(made) == sources {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clear directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := do(ctx, o, dir); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(dir), err)
	}
	return os.WriteFile(ready, []byte(sources), 0o644)
}

// digest is the text of all files of a directory; empty if there is none.
func digest(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s\n%s\n", d.Name(), data)
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return b.String(), err
}

// installFlink makes a Flink home of the two packages on PyPI: one has the scripts, the other the jars. The UI is inside the
// largest jar.
func installFlink(ctx context.Context, o options, dir string) error {
	down := filepath.Join(dir, "download")
	pip := []string{o.python, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-cache-dir", "-d", down}
	// The wheel's platform does not matter: nothing of it but scripts is used.
	scripts := append(pip, "--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux1_x86_64", "apache-flink=="+flinkVersion)
	jars := append(pip[:len(pip):len(pip)], "apache-flink-libraries=="+flinkVersion)
	for _, args := range [][]string{scripts, jars} {
		if _, err := output(ctx, dir, nil, args...); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(down, "*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f, ".whl") {
			err = unzip(f, dir, "pyflink/", "bin/", "conf/")
		} else {
			err = untar(f, dir, "deps/", "bin/", "lib/")
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(f), err)
		}
	}
	if err := os.RemoveAll(down); err != nil {
		return err
	}
	for _, name := range []string{"log", "plugins", "opt"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	return unzip(filepath.Join(dir, "lib", "flink-dist-"+flinkVersion+".jar"), dir, "", "web/")
}

// unzip unpacks the files of an archive below the prefix and one of the folders to the directory, without the prefix.
func unzip(archive, dir, prefix string, folders ...string) (err error) {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	for _, f := range z.File {
		path, ok := wanted(f.Name, prefix, folders)
		if !ok {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, path), r); err != nil {
			return err
		}
	}
	return nil
}

// untar is unzip for a .tar.gz, whose files lie in a directory of the package's name and version.
func untar(archive, dir, prefix string, folders ...string) (err error) {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for t := tar.NewReader(zr); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(h.Name, "/")
		if path, ok := wanted(name, prefix, folders); ok {
			if err := write(filepath.Join(dir, path), t); err != nil {
				return err
			}
		}
	}
}

func wanted(name, prefix string, folders []string) (string, bool) {
	path, ok := strings.CutPrefix(name, prefix)
	if !ok || strings.HasSuffix(name, "/") || !filepath.IsLocal(path) {
		return "", false
	}
	for _, folder := range folders {
		if strings.HasPrefix(path, folder) {
			return path, true
		}
	}
	return "", false
}

func write(path string, r io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, r)
	return err
}

// installAutoscaler fetches the library and compiles what starts it.
func installAutoscaler(ctx context.Context, o options, dir string) error {
	project := filepath.Join(o.source, "autoscaler")
	if err := os.CopyFS(filepath.Join(dir, "project"), os.DirFS(project)); err != nil {
		return err
	}
	jars := filepath.Join(dir, "jars")
	_, err := output(ctx, filepath.Join(dir, "project"), nil, "mvn", "-q", "-B", "-Dmaven.repo.local="+filepath.Join(o.dir, "m2"),
		"org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies", "-DoutputDirectory="+jars)
	if err != nil {
		return err
	}
	path := filepath.Join(jars, "*") + ":" + filepath.Join(o.dir, "flink-"+flinkVersion, "lib", "*")
	_, err = output(ctx, dir, nil, "javac", "-cp", path, "-d", filepath.Join(dir, "classes"), filepath.Join(dir, "project", "Autoscale.java"))
	return err
}

// installWebUI installs the browser's driver as the lockfile has it.
func installWebUI(ctx context.Context, o options, dir string) error {
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(o.source, "webui"))); err != nil {
		return err
	}
	_, err := output(ctx, dir, nil, "npm", "ci", "--silent", "--ignore-scripts", "--cache", filepath.Join(o.dir, "npm"))
	return err
}

// findChromium finds the browser, or installs Debian's.
func findChromium(ctx context.Context, dir string) (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	apt := []string{"apt-get"}
	if os.Getuid() != 0 {
		apt = []string{"sudo", "-n", "apt-get"}
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "chromium"}} {
		if _, err := output(ctx, dir, []string{"DEBIAN_FRONTEND=noninteractive"}, append(apt[:len(apt):len(apt)], args...)...); err != nil {
			return "", fmt.Errorf("chromium is not in the PATH, and cannot be installed: %w", err)
		}
	}
	return exec.LookPath("chromium")
}
