// Packs one static program into an image: an OCI layout of one layer with the program and the public
// roots, for metrics sources that stand behind a public certificate.
//
// The same program and time give the same digest, wherever and by whom it is packed.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Nobody: the number that distroless images use, so that policies made for those hold here.
const user = "65532:65532"

// Where programs look for them on Debian, and in distroless images.
const roots = "etc/ssl/certs/ca-certificates.crt"

func main() {
	log.SetFlags(0)
	version := flag.String("version", "", "the program's version, and the image's tag")
	architecture := flag.String("architecture", "amd64", "as Go names it")
	epoch := flag.Int64("epoch", 0, "when it was made, in seconds since 1970")
	flag.Parse()
	if flag.NArg() != 2 || *version == "" {
		log.Fatal("usage: pack -version VERSION [-epoch SECONDS] PROGRAM LAYOUT")
	}
	size, digest, err := pack(flag.Arg(0), flag.Arg(1), *version, *architecture, time.Unix(*epoch, 0).UTC())
	if err != nil {
		log.Fatalf("packing %s: %v", flag.Arg(0), err)
	}
	fmt.Println(size, digest)
}

// The size counts what is pulled: manifest, configuration and layer, compressed.
func pack(program, folder, version, architecture string, made time.Time) (int64, v1.Hash, error) {
	none := v1.Hash{}
	contents, err := os.ReadFile(program)
	if err != nil {
		return 0, none, err
	}
	name := filepath.Base(program)
	archive, err := archived(made, []file{{roots, 0o644, publicRoots()}, {name, 0o755, contents}})
	if err != nil {
		return 0, none, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil },
		tarball.WithCompressionLevel(9),
		tarball.WithMediaType(types.OCILayer),
	)
	if err != nil {
		return 0, none, err
	}
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: made}, CreatedBy: "pack " + name},
	})
	if err != nil {
		return 0, none, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return 0, none, err
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: made}
	config.OS, config.Architecture = "linux", architecture
	config.Config = v1.Config{
		User:       user,
		Entrypoint: []string{"/" + name},
		Cmd:        []string{"--help"},
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":    name,
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return 0, none, err
	}
	path, err := layout.Write(folder, empty.Index)
	if err != nil {
		return 0, none, err
	}
	tag := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": version})
	if err := path.AppendImage(image, tag); err != nil {
		return 0, none, err
	}
	return measured(image)
}

type file struct {
	name     string
	mode     int64
	contents []byte
}

func archived(made time.Time, files []file) ([]byte, error) {
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	for _, one := range files {
		header := &tar.Header{
			Name: one.name, Mode: one.mode, Size: int64(len(one.contents)), ModTime: made,
		}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(one.contents); err != nil {
			return nil, err
		}
	}
	return archive.Bytes(), writer.Close()
}

// As Mozilla has them. Those that are trusted for a part only are left out: a file cannot say so.
func publicRoots() []byte {
	var all bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			all.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return all.Bytes()
}

func measured(image v1.Image) (int64, v1.Hash, error) {
	digest, err := image.Digest()
	if err != nil {
		return 0, digest, err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return 0, digest, err
	}
	size, err := image.Size()
	if err != nil {
		return 0, digest, err
	}
	size += manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return size, digest, nil
}
