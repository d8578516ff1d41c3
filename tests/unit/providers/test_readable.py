from galaxy_mail.providers.mime import MailFrom, build
from galaxy_mail.providers.readable import readable
from tests.unit.providers.messages import attachment, message


def test_a_mail_is_shown_as_its_reader_sees_it() -> None:
    mail = build(
        message(
            subject="Ваш код",
            text="Ваш код: 123456\n\nGalaxy\n",
            html="<p>Ваш код",
            attachments=(attachment(b"x" * 2048, filename="Übersicht.pdf"),),
        ),
        sender=MailFrom(email="no-reply@galaxy.example", name="Gäläxy"),
        eight_bit=False,
        smtputf8=False,
    )
    assert readable(mail) == (
        "Date: Tue, 01 Jul 2025 10:00:05 +0000\n"
        "From: Gäläxy <no-reply@galaxy.example>\n"
        "To: pilot@a.example\n"
        "Subject: Ваш код\n"
        "Message-ID: <d.1@galaxy.example>\n"
        "Auto-Submitted: auto-generated\n"
        "\n"
        "Ваш код: 123456\n"
        "\n"
        "Galaxy\n"
        "\n"
        "[text/html, 18 bytes]\n"
        "[application/pdf Übersicht.pdf, 2.0 KiB]\n"
    )


def test_a_mail_with_a_broken_charset_is_shown_all_the_same() -> None:
    mail = b"Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nh\xff\r\n"
    assert readable(mail) == "Subject: x\n\nh\N{REPLACEMENT CHARACTER}\n"
