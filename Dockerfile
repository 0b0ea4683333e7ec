# The platform's images. A target a program (msg-api, msg-outboxd, msg-consumerd, operator-sim,
# msg-loadtest); without --target one image with all of them, the program being its first argument.
# Everything comes from Debian and, for the Swagger page, from npm as api/swagger/package-lock.json says.
#
#   docker build --target msg-api -t distributed-messaging-platform/msg-api .
#   docker build -t distributed-messaging-platform .

# A digest here (debian:bookworm-slim@sha256:…) fixes the base as well.
ARG DEBIAN=debian:bookworm-slim

# ---- what every program needs at run time: the libraries that they link, and root certificates ----
# One layer for all images: it is stored and pulled once.
FROM ${DEBIAN} AS runtime
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates \
      libcurl4 \
      libevent-core-2.1-7 \
      libevent-extra-2.1-7 \
      libevent-openssl-2.1-7 \
      libinih1 \
      libjansson4 \
      libmariadb3 \
      libprotobuf-c1 \
      librabbitmq4 \
      libssl3 \
      libsystemd0 \
      zlib1g \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
      /var/log/apt /var/log/*.log

# ---- Swagger UI ----
FROM ${DEBIAN} AS swagger
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates npm
WORKDIR /swagger
COPY api/swagger/package.json api/swagger/package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund

# ---- the programs ----
FROM ${DEBIAN} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      check \
      cmake \
      gcc \
      libc6-dev \
      libcurl4-openssl-dev \
      libevent-dev \
      libinih-dev \
      libjansson-dev \
      libmariadb-dev \
      libprotobuf-c-dev \
      librabbitmq-dev \
      libssl-dev \
      libsystemd-dev \
      ninja-build \
      pkg-config \
      protobuf-c-compiler \
      uthash-dev \
      zlib1g-dev
WORKDIR /src
COPY . .
COPY --from=swagger /swagger/node_modules api/swagger/node_modules
RUN cmake -S . -B /build -G Ninja -DCMAKE_INSTALL_PREFIX=/usr \
 && cmake --build /build --target msg-api msg-outboxd msg-consumerd operator-sim msg-loadtest \
 && install -D --strip --target-directory=/out/usr/bin /build/api/msg-api /build/outboxd/msg-outboxd \
      /build/consumerd/msg-consumerd /build/operator-sim/operator-sim /build/test/loadtest/msg-loadtest \
 && install -D -m 0644 --target-directory=/out/usr/share/distributed-messaging-platform/sql sql/*.sql \
 && install -D -m 0644 --target-directory=/out/usr/share/distributed-messaging-platform/operators.d \
      consumerd/operators.d/*.ini \
 && install -D -m 0644 --target-directory=/out/usr/share/distributed-messaging-platform/swagger \
      /build/api/swagger/*

# ---- what the images have in common ----
FROM runtime AS common
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="distributed-messaging-platform" \
      org.opencontainers.image.description="Message sending against a prepaid balance" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
USER 65532:65532
STOPSIGNAL SIGTERM

FROM common AS msg-api
LABEL org.opencontainers.image.title="msg-api"
COPY --from=build /out/usr/bin/msg-api /usr/bin/
COPY --from=build /out/usr/share/distributed-messaging-platform /usr/share/distributed-messaging-platform
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["/usr/bin/msg-api", "--health"]
ENTRYPOINT ["/usr/bin/msg-api"]

FROM common AS msg-outboxd
LABEL org.opencontainers.image.title="msg-outboxd"
COPY --from=build /out/usr/bin/msg-outboxd /usr/bin/
ENV LISTEN_ADDR=:8081
EXPOSE 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["/usr/bin/msg-outboxd", "--health"]
ENTRYPOINT ["/usr/bin/msg-outboxd"]

FROM common AS msg-consumerd
LABEL org.opencontainers.image.title="msg-consumerd"
COPY --from=build /out/usr/bin/msg-consumerd /usr/bin/
COPY --from=build /out/usr/share/distributed-messaging-platform/operators.d /usr/share/distributed-messaging-platform/operators.d
ENV LISTEN_ADDR=:8082
EXPOSE 8082
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["/usr/bin/msg-consumerd", "--health"]
ENTRYPOINT ["/usr/bin/msg-consumerd"]

FROM common AS operator-sim
LABEL org.opencontainers.image.title="operator-sim"
COPY --from=build /out/usr/bin/operator-sim /usr/bin/
ENV LISTEN_ADDR=:9001
EXPOSE 9001
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["/usr/bin/operator-sim", "--health"]
ENTRYPOINT ["/usr/bin/operator-sim"]

# It runs and ends: nothing to ask for its health.
FROM common AS msg-loadtest
LABEL org.opencontainers.image.title="msg-loadtest"
COPY --from=build /out/usr/bin/msg-loadtest /usr/bin/
HEALTHCHECK NONE
ENTRYPOINT ["/usr/bin/msg-loadtest"]

# ---- all of them ----
# env(1) becomes the program that it is given, which is then the container's first process; a further
# launcher would do no more. The health check becomes that process's own program, by its name: /proc/1/exe is closed
# to all, since it leaves no core dump (CORE_DUMPS).
FROM common AS all
COPY --from=build /out/ /
EXPOSE 8080 8081 8082 9001
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["/bin/sh", "-c", "exec \"$(cat /proc/1/comm)\" --health"]
ENTRYPOINT ["/usr/bin/env"]
CMD ["msg-api"]
