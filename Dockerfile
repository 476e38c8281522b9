# For those who have Docker; `make image` makes one of the same parts without it.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
RUN install -D "$(.ci/build-static /target)" /image/meshrollout

FROM scratch
# For metrics sources that stand behind a public certificate.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /image/meshrollout /meshrollout
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/meshrollout"]
CMD ["--help"]
