#!/bin/sh
# Installs Redshank on this machine, or brings an installation up to date; deploy/install.sh --help says how.
set -eu
umask 022

usage() {
  cat <<'END'
deploy/install.sh [OPTION...]: installs Redshank, or brings an installation up to date. Run it again at any time.

  --wheel FILE       install this wheel; default: the source that the script lies in
  --version VERSION  install this version from the package index that pip is configured with
  --extras LIST      optional parts such as images or images,report; default: images; none for none of them
  --config FILE      check this configuration and make it /etc/redshank/redshank.yaml; one that is there is kept beside it
  --prefix FOLDER    put everything below FOLDER, make no user and start nothing; needs no root
  --uninstall        remove program, unit and command; keep configuration, state and user
  --purge            remove those, too

/opt/redshank has the program, /usr/local/bin/redshank the command, /etc/redshank the configuration, /var/lib/redshank
what was learnt. The unit is redshank.service, its user redshank. What was installed goes on until the new one has been
unpacked, has run its encoders, and has found the configuration good. PYTHON=python3.11 names another Python than python3.
END
}

say() { echo "== $*"; }
fail() {
  echo "install.sh: $*" >&2
  exit 1
}

python=${PYTHON:-python3}
wheel='' version='' extras=images config='' prefix='' action=install
while [ $# -gt 0 ]; do
  case $1 in
  --wheel | --version | --extras | --config | --prefix)
    [ $# -ge 2 ] || fail "$1 needs a value; see --help"
    case $1 in
    --wheel) wheel=$2 ;;
    --version) version=$2 ;;
    --extras) extras=$2 ;;
    --config) config=$2 ;;
    --prefix) prefix=$2 ;;
    esac
    shift
    ;;
  --uninstall) action=uninstall ;;
  --purge) action=purge ;;
  -h | --help) usage && exit 0 ;;
  *) fail "expected an option, found $1; see --help" ;;
  esac
  shift
done
[ -z "$wheel" ] || [ -z "$version" ] || fail "--wheel and --version exclude each other"
[ -z "$wheel" ] || [ -f "$wheel" ] || fail "--wheel $wheel: no such file"
[ -z "$config" ] || [ -f "$config" ] || fail "--config $config: no such file"
if [ -n "$prefix" ]; then
  mkdir -p "$prefix"
  prefix=$(cd "$prefix" && pwd)
elif [ "$(id -u)" -ne 0 ]; then
  fail "needs root (sudo $0), or --prefix FOLDER to try it out"
fi

if [ -z "$prefix" ] && dpkg-query --show --showformat='${db:Status-Status}' redshank 2>/dev/null | grep -q '^installed'; then
  fail "the Debian package redshank is installed; remove it first (apt remove redshank keeps configuration and state)"
fi

deploy=$(cd "$(dirname "$0")" && pwd)
program=$prefix/opt/redshank
settings=$prefix/etc/redshank
state=$prefix/var/lib/redshank
unit=$prefix/etc/systemd/system/redshank.service
commands=$prefix/usr/local/bin

systemd() { # does nothing where it does not run, or where another root is filled
  if [ -z "$prefix" ] && [ -d /run/systemd/system ]; then systemctl "$@"; fi
}

uninstall() {
  systemd disable --quiet --now redshank.service 2>/dev/null || true
  rm -rf "$program" "$unit" "$commands/redshank" "$commands/redshank-convert"
  systemd daemon-reload
  if [ "$action" = uninstall ]; then
    say "removed; $settings, $state and the user redshank are kept (--purge removes them)"
    return
  fi
  rm -rf "$settings" "$state"
  if [ -z "$prefix" ] && getent passwd redshank >/dev/null; then userdel redshank; fi
  say "removed, with $settings, $state and the user redshank"
}

check_python() { # that there is one, and that its packages can be had for this machine
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "needs Python 3.11 or newer found $("$python" --version 2>&1 || true); Debian 12 and Raspberry Pi OS 12 have it"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || fail "needs Python's venv: apt install python3-venv"
  # A 64-bit kernel may run 32-bit programs, as on many a Pi: Python knows better than uname.
  if "$python" -c 'import sys; sys.exit(sys.maxsize > 2**32)'; then
    case $(uname -m)-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
    armv7l-3.11 | armv8l-3.11 | aarch64-3.11) ;;
    *) fail "on 32-bit ARM needs ARMv7 and Python 3.11 (Debian 12, Raspberry Pi OS 12): nothing runs encoders on others" ;;
    esac
    say "32-bit ARM: PyPI has tflite-runtime for it, but neither numpy, msgspec nor pillow. pip takes them from where it is"
    say "configured to (Raspberry Pi OS: piwheels.org), or compiles them: apt install build-essential python3-dev, and hours."
    say "A 64-bit system needs none of that."
  else
    case $(uname -m) in
    x86_64 | aarch64) ;;
    *) fail "needs x86_64 or ARM, found $(uname -m): nothing runs encoders here" ;;
    esac
  fi
}

source_of() { # what pip is to install
  if [ -n "$wheel" ]; then
    echo "$(cd "$(dirname "$wheel")" && pwd)/$(basename "$wheel")"
  elif [ -n "$version" ]; then
    echo redshank
  elif [ -f "$deploy/../pyproject.toml" ]; then
    (cd "$deploy/.." && pwd)
  else
    fail "found no source beside the script; name a --wheel or a --version"
  fi
}

install_all() {
  check_python
  source=$(source_of)
  if [ "$extras" != none ]; then source="${source}[$extras]"; fi
  if [ -n "$version" ]; then source="$source==$version"; fi

  # Each time into a folder of its own, which takes the old one's place at once.
  new=$program/$(date --utc +%Y%m%dT%H%M%S)-$$
  mkdir -p "$program"
  trap 'rm -rf "$new"' EXIT
  say "installing $source in $new"
  "$python" -m venv "$new"
  constraints=$deploy/constraints-$("$new/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
  if [ ! -f "$constraints" ]; then constraints=/dev/null; fi
  "$new/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$source"
  "$new/bin/redshank" encoders --threads 1 --seconds 0.01 >"$new/encoders.log" 2>&1 || {
    cat "$new/encoders.log" >&2
    fail "what was installed does not run here; nothing was changed"
  }
  if [ -n "$config" ]; then
    "$new/bin/redshank" check "$config" || fail "--config $config is not good; nothing was changed"
  elif [ -f "$settings/redshank.yaml" ]; then
    "$new/bin/redshank" check "$settings/redshank.yaml" || fail "this version refuses the configuration; nothing was changed"
  fi

  mkdir -p "$settings" "$commands" "$(dirname "$unit")"
  ln -sfn "$new" "$program/next"
  mv -T "$program/next" "$program/current"
  trap - EXIT
  for command in redshank redshank-convert; do ln -sfn "$program/current/bin/$command" "$commands/$command"; done
  install -m 644 "$deploy/redshank.example.yaml" "$settings/redshank.example.yaml"
  sed "s|/usr/bin/redshank|$program/current/bin/redshank|" "$deploy/redshank.service" >"$unit"
  if [ -n "$config" ] && ! cmp -s "$config" "$settings/redshank.yaml"; then
    if [ -f "$settings/redshank.yaml" ]; then cp "$settings/redshank.yaml" "$settings/redshank.yaml.old"; fi
    install -m 644 "$config" "$settings/redshank.yaml"
  fi
  if [ -n "$prefix" ]; then
    mkdir -p "$state"
  else
    getent passwd redshank >/dev/null ||
      useradd --system --user-group --home-dir /var/lib/redshank --no-create-home --shell /usr/sbin/nologin redshank
    install -d -m 700 -o redshank -g redshank "$state"
  fi

  say "installed $("$new/bin/python" -c 'from importlib.metadata import version; print("redshank", version("redshank"))')"
  systemd daemon-reload
  systemd enable --quiet redshank.service
  if [ -f "$settings/redshank.yaml" ]; then
    systemd restart redshank.service || fail "it does not start; journalctl -u redshank -n 20 says why"
    say "its configuration is $settings/redshank.yaml"
  else
    say "it waits for its configuration, $settings/redshank.yaml; $settings/redshank.example.yaml has every key. Then:"
    say "redshank check $settings/redshank.yaml; systemctl start redshank"
  fi
  for old in "$program"/20*; do [ "$old" = "$new" ] || rm -rf "$old"; done
}

if [ "$action" = install ]; then install_all; else uninstall; fi
